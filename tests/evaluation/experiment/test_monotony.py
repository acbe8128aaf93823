"""Where more demand is planned less CPU: scenes that are what they say, counted, and the promise judged."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.experiment import kinds, monotony
from evaluation.experiment.kinds import Options
from evaluation.experiment.monotony import CASES, Pair


@pytest.mark.parametrize("name", CASES)
def test_a_scene_is_the_same_each_time_and_changes_in_its_first_service_alone(name: str) -> None:
    one, again = (CASES[name](np.random.default_rng(5)) for _ in range(2))
    assert [state.demand for state in one.services] == [state.demand for state in again.services]
    busier, looser = one.busier(1.5), one.looser(2.0)
    assert busier.services[0].demand.rate == pytest.approx(1.5 * one.services[0].demand.rate)
    assert looser.services[0].demand.budgets[0][0] == pytest.approx(2 * one.services[0].demand.budgets[0][0])
    assert busier.services[1:] == looser.services[1:] == one.services[1:]


@pytest.mark.parametrize("number", range(5))
def test_what_is_promised_holds(number: int) -> None:
    pair = monotony.compare(("as promised", number, 1))
    assert pair.looser <= pair.here <= pair.busier


def test_violations_are_counted_and_only_the_promised_are_judged() -> None:
    pairs = [
        Pair("as promised", 1000, 1000, 1000),
        Pair("as promised", 1000, 1200, 900),
        Pair("a", 1000, 700, 1000),
        Pair("a", 1000, 900, 1100),
    ]
    assert monotony.table(pairs).rows == [
        ("as promised", 2, 0, 0.0, 0, 0, 0.0, 0),
        ("a", 2, 2, 100.0, 300, 1, 50.0, 100),
    ]
    assert monotony.goal(pairs).met
    assert not monotony.goal([*pairs, Pair("as promised", 1000, 900, 1000)]).met


def test_the_experiment_that_is_shipped_is_run(tmp_path: Path) -> None:
    toml = tmp_path / "monotony.toml"
    shipped = kinds.shipped()["monotony"].read_text(encoding="utf-8")
    toml.write_text(shipped.replace("pairs = 500", "pairs = 1"), encoding="utf-8")
    finding = monotony.run(toml, tmp_path, Options("c", None, 1, None, lambda _: None))
    assert [row[0] for row in finding.tables[0].rows] == list(CASES)
