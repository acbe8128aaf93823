"""A worker under load whose CPU and memory are changed at random: the experiment's code, and fewer resizes."""

from pathlib import Path

import pytest

from core.config import load
from evaluation.experiment import kinds, resizes
from evaluation.experiment.kinds import Options

RESIZES = 40


@pytest.mark.usefixtures("images")
def test_no_resize_ends_in_a_kill_or_a_failed_request(tmp_path: Path) -> None:
    shipped = kinds.shipped()["resizes"]
    settings = load(shipped, resizes.Settings)
    toml = tmp_path / "resizes.toml"
    toml.write_text(shipped.read_text().replace(f"resizes = {settings.resizes}", f"resizes = {RESIZES}"))
    found = resizes.run(toml, tmp_path, Options("", None, 1, None, lambda _: None))
    print(*(goal.measured for goal in found.goals), sep="\n")
    (table,) = found.tables
    assert [row[1] for row in table.rows] == [RESIZES, RESIZES]
    assert [goal.met for goal in found.goals] == [True, True]
    # Some of them asked for less than was in use.
    assert all(row[table.columns.index("not so low")] > 0 for row in table.rows)
