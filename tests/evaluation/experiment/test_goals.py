"""Goals on scores made by hand."""

import math

import msgspec
import pytest

from evaluation.experiment.goals import Check, GoalDescription, judge, ratio
from tests.evaluation.experiment.trials import score, trial

CALM = trial({"sponge": (3.0, 0), "usage-nt": (4.0, 0), "fa2": (5.0, 100)}, demand="calm", log="a")
BURST = trial({"sponge": (6.0, 2), "usage-nt": (6.0, 1), "fa2": (7.0, 300)}, demand="burst", log="a")
TRIALS = [CALM, BURST]


def only(trials=TRIALS, **described):
    (goal,) = judge(GoalDescription(goal="it holds", **described), trials)
    return goal


def check(trials=TRIALS, **bound):
    return only(trials, all=(Check(**bound),))


def test_the_worst_case_decides_over_each():
    assert check(quantity="missed-share", at_most=0.002).met
    found = check(quantity="missed-share", at_most=0.0015)
    assert not found.met
    assert found.measured == "0.2 % at worst, in burst · a; so in 1 of 2 cases"
    assert check(quantity="cores", at_least=3).met
    assert not check(quantity="cores", at_least=3.1).met


def test_ratios_in_the_median_and_in_total():
    found = check(quantity="cores", to="usage-nt", over="median", at_most=0.88)
    assert found.met
    assert found.measured == "0.88 × the cores of usage-nt in the median"
    assert not check(quantity="cores", to="usage-nt", over="median", at_most=0.87).met
    assert not check(quantity="misses", to="usage-nt", over="total", at_most=1.9).met
    assert check(quantity="misses", to="usage-nt", over="total", at_most=2).met


def test_below_excludes_the_bound_itself():
    assert not check([BURST], quantity="cores", to="usage-nt", below=1.0).met
    assert check([CALM], quantity="cores", to="usage-nt", below=1.0).met


def test_ratios_of_nothing():
    assert ratio(0, 0) == 1
    assert ratio(1, 0) == math.inf
    assert ratio(1, 2) == 0.5
    assert check([CALM], quantity="misses", policy="fa2", to="sponge", at_least=15).met
    assert not check([BURST], quantity="misses", policy="sponge", to="fa2", at_most=0).met


def test_where_and_when_choose_the_cases():
    cores = Check(quantity="cores", at_most=3)
    assert only(all=(cores,), where={"demand": ("calm",)}).met
    assert not only(all=(cores,), where={"demand": ("burst",)}).met
    many = Check(quantity="misses", policy="fa2", at_least=200)
    assert not only(all=(cores,), when=many).met
    none = Check(quantity="misses", policy="fa2", at_least=1000)
    found = only(all=(cores,), when=none)
    assert (found.measured, found.met) == ("in no case", None)


def test_one_of_either_is_enough_and_all_of_all_are_needed():
    cheap = Check(quantity="cores", to="usage-nt", at_most=0.8)
    no_more = Check(quantity="misses", to="usage-nt", at_most=1)
    assert only([CALM], all=(cheap, no_more)).met
    assert not only([BURST], all=(cheap, no_more)).met
    many = Check(quantity="misses", policy="fa2", at_least=1)
    found = only([BURST], either=((cheap, no_more), (many,)))
    assert found.met
    assert found.measured == ("1.00 × the cores of usage-nt, 2.00 × the misses of usage-nt; or 300 misses")


def test_a_goal_for_every_label_of_an_axis():
    described = GoalDescription(
        goal="cheap", all=(Check(quantity="cores", to="usage-nt", below=1),), each="demand"
    )
    assert [(goal.goal, goal.met) for goal in judge(described, TRIALS)] == [
        ("calm: cheap", True),
        ("burst: cheap", False),
    ]


def test_misses_are_shares_of_those_that_had_time():
    one = trial({"sponge": (1.0, 0)})
    scores = {"sponge": score("sponge", dead_on_arrival=400, tight=100, avoidable_missed=5)}
    found = check([type(one)(one.case, scores)], quantity="missed-share", at_most=1)
    assert found.measured == "1 %"


def test_of_no_tight_request_none_is_saved_nor_lost():
    assert check([CALM], quantity="tight-saved", at_least=0.9).measured == "no tight-saved"


def test_a_check_is_read_strictly():
    with pytest.raises(msgspec.ValidationError, match="atmost"):
        msgspec.convert({"quantity": "cores", "atmost": 1}, Check)
