"""The page of made-up findings."""

import re
from base64 import b64encode
from pathlib import Path

from evaluation.experiment import html, results
from tests.evaluation import documents
from tests.evaluation.experiment import findings


def rendered(directory: Path) -> str:
    return html.render(results.read(directory))


def test_page_tells_everything_and_fetches_nothing(tmp_path: Path) -> None:
    text = rendered(findings.write(tmp_path))
    page = documents.parsed(text)
    picture = f"data:image/png;base64,{b64encode(findings.PNG).decode()}"
    assert page.links == ["#paper", "#demand", picture]
    assert page.ids == ["paper", "demand"]
    assert "<script" not in text
    assert "url(" not in text
    finding = findings.demand()
    told = [
        "1 of 2 goals met in 2 experiments.",
        *(finding.title, finding.question, finding.command, *finding.notes),
        *(word for pair in finding.settings.items() for word in pair),
        *(word for goal in finding.goals for word in (goal.goal, goal.measured)),
        *(word for table in finding.tables for word in (table.title, *table.columns)),
        *("static-best", "usage-nt <90 %>", "0.00080", "12,000", "–", "bus|1", "Medians & spread."),
        *("✓ met", "✗ not met", "Cores <over> time"),
    ]
    assert [word for word in told if word not in page.texts] == []


def test_page_colours_everything_by_variables_it_defines(tmp_path: Path) -> None:
    text = rendered(findings.write(tmp_path))
    assert set(re.findall(r"var\((--[a-z-]+)\)", text)) <= set(re.findall(r"(--[a-z-]+):", text))


def test_a_missing_picture_is_named_in_its_place(tmp_path: Path) -> None:
    (findings.write(tmp_path) / "demand-cores.png").unlink()
    assert results.read(tmp_path).missing == ["demand-cores.png"]
    page = documents.parsed(rendered(tmp_path))
    assert page.links == ["#paper", "#demand"]
    assert "demand-cores.png is missing." in page.texts
    assert "Cores <over> time" in page.texts


def test_without_goals_none_are_counted(tmp_path: Path) -> None:
    findings.paper().write(tmp_path)
    assert "One experiment." in documents.parsed(rendered(tmp_path)).texts
