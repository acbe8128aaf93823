from evaluation.serving import plan
from evaluation.serving.peers import MLSERVER, PEERS
from evaluation.serving.plan import Quantity
from evaluation.serving.recipes import BARE, ECHO, ECHO_MODEL, ECHO_UVLOOP
from evaluation.serving.subjects import MLP


def test_every_promise_has_twelve_pairs_at_least():
    whole = plan.full()
    for promise in whole.promises:
        about = [
            one
            for one in whole.comparisons
            if (one.subject, one.load) == (promise.subject, promise.load)
            and promise.rival in (None, one.rival)
        ]
        assert sum(one.pairs for one in about) >= 12
        assert (promise.rival is None) == (promise.quantity is Quantity.GOODPUT)


def test_a_whole_run_takes_less_than_twenty_minutes_of_measuring():
    whole = plan.full()
    seconds = sum(2 * one.pairs * (one.seconds + whole.lead_s) for one in whole.comparisons)
    assert seconds < 20 * 60


def test_no_comparison_is_made_twice():
    for made in (plan.full(), plan.quick()):
        assert len(set(made.comparisons)) == len(made.comparisons)


def test_every_rival_can_be_started():
    assert {one.rival for one in plan.full().comparisons} == {BARE, ECHO, ECHO_MODEL, ECHO_UVLOOP, *PEERS}


def test_a_part_of_the_plan_can_be_run():
    part = plan.only(plan.full(), [MLP], [MLSERVER], pairs=2, seconds=0.5)
    assert {one.subject for one in part.comparisons} == {MLP}
    assert {one.rival for one in part.comparisons} == {BARE, ECHO, ECHO_MODEL, ECHO_UVLOOP, MLSERVER}
    assert {one.pairs for one in part.comparisons} == {2}
    assert {one.seconds for one in part.comparisons} == {0.5}
    assert part.promises == plan.full().promises
