"""Names of policies, and whose turn it is."""

import itertools
from collections import Counter

import pytest

from evaluation.bench.policy import PolicyError, parse, turns


def test_each_round_has_every_policy_once():
    policies = ["a", "b", "c", "d"]
    for number in range(8):
        assert sorted(turns(policies, number)) == policies


def test_over_the_rounds_places_and_predecessors_change():
    policies = ["a", "b", "c"]
    orders = [turns(policies, number) for number in range(6)]
    assert orders[0] == policies
    for place in range(3):
        assert Counter(order[place] for order in orders) == {"a": 2, "b": 2, "c": 2}
    assert {(before, after) for order in orders for before, after in itertools.pairwise(order)} == {
        (x, y) for x in policies for y in policies if x != y
    }


@pytest.mark.parametrize(
    ("name", "millicores"),
    [("static:MAX", 1500), ("static:70%", 1050), ("static:900", 900), ("static:700,800", [700, 800])],
)
def test_a_fixed_policy_has_its_part_of_the_host_and_a_control_plane_that_looks_on(name, millicores):
    policy = parse(name)
    assert policy.millicores(1500, 2) == millicores
    assert policy.control().governor.paused


def test_another_policy_has_a_control_plane_of_its_own():
    control = parse("paper").control()
    assert not parse("paper").fixed
    assert (control.module, control.arguments) == ("evaluation.bench.control", ("--policy", "paper"))
    assert not control.governor.paused


@pytest.mark.parametrize(
    "name", ["", "static", "static:0%", "static:100%", "static:50", "static:700,", "best"]
)
def test_a_policy_that_there_is_not_is_refused_with_those_that_there_are(name):
    with pytest.raises(PolicyError, match=r"^--policy: expected sponge, .* got "):
        parse(name)


@pytest.mark.parametrize(
    ("name", "problem"), [("static:1600", "at most the 1500"), ("static:500,500,400", "each of 2")]
)
def test_a_split_that_does_not_fit_is_refused(name, problem):
    with pytest.raises(PolicyError, match=problem):
        parse(name).millicores(1500, 2)
