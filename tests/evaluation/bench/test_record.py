"""What a bench leaves behind, read again."""

import pytest

from evaluation.bench.record import Bench, Events
from evaluation.bench.summary import recorded, summarise
from evaluation.rows import Outcome
from tests.evaluation.bench.recordings import bench, events, row, trial

TRIALS = [trial(1, "sponge"), trial(1, "static:MAX")]
SEEN = [events(0.8, [row(6.0), row(7.0)]), events(1.5, [row(6.0), row(7.0, Outcome.LATE)])]


@pytest.fixture
def directory(tmp_path):
    """What a run of two policies has left."""
    for one, seen in zip(TRIALS, SEEN, strict=True):
        seen.write(tmp_path / one.directory)
    bench(TRIALS).write(tmp_path)
    return tmp_path


def test_every_number_comes_from_the_files_again(directory):
    measured = summarise(bench(TRIALS), SEEN)
    assert summarise(*recorded(directory)) == measured
    assert measured.goals
    assert all(table.rows for table in measured.tables)


def test_plots_are_drawn_from_the_files(directory):
    finding = summarise(*recorded(directory), directory / "plots", name="real")
    assert sorted(path.name for path in (directory / "plots").iterdir()) == sorted(
        plot.file for plot in finding.plots
    )


@pytest.mark.parametrize("file", ["recorded.json", "1-sponge/points.csv", "1-static-MAX/changes.csv"])
def test_a_file_that_is_something_else_is_named(directory, file):
    (directory / file).write_text("something else\n1\n")
    with pytest.raises(ValueError, match=file):
        recorded(directory)


def test_a_number_that_is_none_is_named_by_its_line(directory):
    path = directory / "1-sponge/points.csv"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace("vision", "vision,x", 1)
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"points\.csv: line 3: "):
        Events.read(directory / "1-sponge")


def test_an_unknown_key_is_refused(tmp_path):
    (tmp_path / "recorded.json").write_text('{"unknown": 1}')
    with pytest.raises(ValueError, match=r"recorded\.json"):
        Bench.read(tmp_path)
