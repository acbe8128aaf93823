"""`sponge report`, from the command line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from evaluation.experiment import markdown, results
from evaluation.experiment.finding import Finding
from sponge.__main__ import main
from tests.evaluation.experiment import findings

ROOT = Path(__file__).parents[3]
DOCUMENTS = ("docs/evaluation.md", "docs/performance.md", "docs/control-plane.md")
DOCUMENT = "<!-- finding: demand/Goals -->\n<!-- end -->\n<!-- finding: paper/Settings -->\n<!-- end -->\n"


@dataclass(frozen=True, slots=True)
class Said:
    code: int
    out: str
    err: str


Report = Callable[..., Said]


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str]) -> Report:
    def run(*arguments: object) -> Said:
        code = main(["report", *map(str, arguments)])
        return Said(code, *capfd.readouterr())

    return run


def test_a_page_is_written(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    said = report(findings.write(tmp_path), "--output", page)
    assert said == Said(0, f"report: {page}\n", "")
    assert "Varying demand" in page.read_text()


def test_a_document_is_rewritten_without_a_page(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    findings.write(tmp_path / "results")
    Path("evaluation.md").write_text(DOCUMENT)
    assert report("results", "--markdown", "evaluation.md") == Said(0, "tables: evaluation.md\n", "")
    assert "| cores ≤ 1.30 × bound | 1.21 | met |" in Path("evaluation.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.md", "results"]


def test_what_one_document_tells_another_need_not(report: Report, tmp_path: Path) -> None:
    one, other = tmp_path / "one.md", tmp_path / "other.md"
    one.write_text("<!-- finding: demand/Goals -->\n<!-- end -->\n")
    other.write_text("<!-- finding: paper/Settings -->\n<!-- end -->\n")
    said = report(findings.write(tmp_path / "results"), "--markdown", one, "--markdown", other)
    assert said == Said(0, f"tables: {one}\ntables: {other}\n", "")
    assert "sponge experiment paper" in other.read_text()
    assert report(tmp_path / "results", "--markdown", one).err == f"sponge report: {one}: no block of paper\n"


def test_what_is_missing_is_told(report: Report, tmp_path: Path) -> None:
    (findings.write(tmp_path) / "demand-cores.png").unlink()
    document = tmp_path / "evaluation.md"
    document.write_text("Prose.\n")
    said = report(tmp_path, "--markdown", document, "--output", tmp_path / "page.html")
    assert said.code == 0
    assert said.err == (
        f"sponge report: {document}: no block of paper\n"
        f"sponge report: {document}: no block of demand/Goals\n"
        f"sponge report: {tmp_path}/demand-cores.png: missing; the page says so in its place\n"
    )


def test_experiments_are_told_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("zebra", "trust", "cfs-period", "adder", "demand", "paper"):
        msgspec.structs.replace(findings.paper(), experiment=name).write(tmp_path)
    told = [finding.experiment for finding in results.read(tmp_path).findings]
    assert told == ["paper", "demand", "cfs-period", "trust", "adder", "zebra"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "no findings; `sponge experiment NAME` writes one"),
        ("{", "demand.json: Input data was truncated"),
        ("{}", "demand.json: Object missing required field `experiment`"),
        (msgspec.json.encode(findings.paper()).decode(), "demand.json: experiment: expected 'demand'"),
    ],
)
def test_bad_results_are_one_line_and_exit_code_2(
    report: Report, tmp_path: Path, content: str | None, error: str
) -> None:
    if content is not None:
        (tmp_path / "demand.json").write_text(content)
    said = report(tmp_path, "--output", tmp_path / "page.html")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"sponge report: {tmp_path}")
    assert error in said.err
    assert not (tmp_path / "page.html").exists()


def test_files_that_cannot_be_used_are_named(report: Report, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert report(nowhere).err == f"sponge report: {nowhere}: no such directory\n"
    said = report(findings.write(tmp_path), "--markdown", nowhere)
    assert said.code == 2
    assert str(nowhere) in said.err
    picture = tmp_path / "demand-cores.png"
    said = report(tmp_path, "--markdown", picture)
    assert said == Said(2, "", f"sponge report: {picture}: expected text in UTF-8\n")
    assert picture.read_bytes() == findings.PNG


def test_a_document_with_a_bad_marker_stays_as_it_is(report: Report, tmp_path: Path) -> None:
    document = tmp_path / "evaluation.md"
    document.write_text(text := DOCUMENT.replace("paper/Settings", "paper/Cores"))
    said = report(findings.write(tmp_path), "--markdown", document)
    assert said == Said(2, "", f"sponge report: {document}:3: paper/Cores: expected one of Settings\n")
    assert document.read_text() == text


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ({"tables": [{"title": "T", "columns": ["a", "b"], "rows": [[1]]}]}, "expected 2 cells in each row"),
        ({"tables": [{"title": "T", "columns": [], "rows": []}] * 2}, "expected titles that differ"),
        ({"plots": [{"file": "../secret.png", "caption": ""}]}, "expected a name without folders"),
    ],
)
def test_findings_that_contradict_themselves_are_refused(
    tmp_path: Path, part: dict[str, object], error: str
) -> None:
    path = tmp_path / "paper.json"
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(findings.paper()) | part))
    with pytest.raises(ValueError, match=error):
        Finding.read(path)


def test_the_documents_say_what_the_results_say() -> None:
    directory = ROOT / "evaluation/results"
    told = results.read(directory).findings if any(directory.glob("*.json")) else []
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS]
    for name, text in zip(DOCUMENTS, texts, strict=True):
        assert markdown.update(text, told) == text, f"run: sponge report --markdown {name}"
    assert markdown.untold("\n".join(texts), told) == []
