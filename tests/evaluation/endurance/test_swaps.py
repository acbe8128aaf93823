"""What a swap stalls, told from a journal made by hand."""

import pytest

from dataplane.request import Outcome
from evaluation.endurance.swaps import Stall, Swap, stalls
from evaluation.journal import Executed, Served


def served(arrived_s, started_s, finished_s):
    return Served(
        header_s=arrived_s,
        arrived_s=arrived_s,
        deadline_s=99.0,
        expires_s=99.0,
        rows=1,
        outcome=Outcome.ON_TIME,
        finished_s=finished_s,
        started_s=started_s,
        batch_rows=1,
    )


def executed(started_s, slot_s, wall_s=None):
    return Executed(
        started_s=started_s,
        slot_s=slot_s,
        rows=1,
        threads=1,
        wall_s=slot_s if wall_s is None else wall_s,
        cpu_s=0.0,
        busy=1.0,
        mixed=False,
    )


def swap(decided_s, applied_s, instances=1):
    return Swap(decided_s, applied_s, instances, 1, 1)


def approx(idle_s, gap_s, batch_s):
    return pytest.approx((idle_s, gap_s, batch_s))


def numbers(stall: Stall):
    return stall.idle_s, stall.gap_s, stall.batch_s


def test_one_after_the_other_nothing_is_stalled():
    journal = [served(0.0, 0.0, 1.0), served(0.1, 1.0, 2.0), served(0.2, 2.0, 3.0)]
    ran = [executed(0.0, 1.0), executed(1.0, 1.0), executed(2.0, 1.0)]
    (beside,), _ = stalls([swap(0.5, 0.6)], journal, ran)
    assert numbers(beside) == approx(0.0, 1.0, 1.0)


def test_a_slot_that_stands_still_while_somebody_waits_is_a_stall():
    journal = [served(0.0, 0.0, 1.0), served(0.1, 4.0, 5.0)]
    ran = [executed(0.0, 1.0), executed(4.0, 1.0)]
    (beside,), elsewhere = stalls([swap(1.0, 3.9)], journal, ran)
    assert numbers(beside) == approx(3.0, 4.0, 1.0)
    assert numbers(elsewhere) == approx(0.0, 0.0, 0.0)


def test_so_is_a_loop_that_hears_late_of_an_end():
    journal = [served(0.0, 0.0, 3.0), served(0.1, 3.0, 4.0)]
    (beside,), _ = stalls([swap(0.5, 0.6)], journal, [executed(0.0, 3.0, wall_s=1.0), executed(3.0, 1.0)])
    assert numbers(beside) == approx(2.0, 1.0, 3.0)


def test_a_slot_that_stands_still_with_nobody_waiting_is_none():
    journal = [served(0.0, 0.0, 1.0), served(5.0, 5.0, 6.0)]
    (beside,), _ = stalls([swap(1.0, 4.9)], journal, [executed(0.0, 1.0), executed(5.0, 1.0)])
    assert numbers(beside) == approx(0.0, 0.0, 1.0)


def test_of_more_instances_all_should_run():
    journal = [served(0.0, 0.0, 4.0), served(0.1, 4.0, 5.0)]
    (beside,), _ = stalls([swap(1.0, 2.0, instances=2)], journal, [executed(0.0, 4.0), executed(4.0, 1.0)])
    assert beside.idle_s == pytest.approx(2.0)


def test_what_is_far_from_every_swap_counts_elsewhere():
    journal = [served(0.0, 0.0, 1.0), served(0.1, 2.5, 3.5), served(20.0, 20.0, 21.0)]
    ran = [executed(0.0, 1.0), executed(2.5, 1.0), executed(20.0, 1.0)]
    (beside,), elsewhere = stalls([swap(19.9, 20.1)], journal, ran)
    assert numbers(beside) == approx(0.0, 0.0, 1.0)
    assert numbers(elsewhere) == approx(1.5, 2.5, 1.0)
