"""Growth at once, a shrink after it held."""

from dataclasses import replace

from controlplane.allocation import Allocation
from controlplane.governor import OBSERVED_S, Action, Governor, Hold, Verdict, urgent


def allocation(millicores: int, instances: int = 1) -> Allocation:
    return Allocation(millicores, instances, 1, 1)


def test_growth_is_at_once_even_while_another_change_is_under_way():
    governor = Governor(shrink_hold_s=4.0, dead_band_millicores=100)
    assert governor.decide(allocation(500), allocation(1100), 1.0, settled=False) == Verdict(
        Action.GROW, allocation(1100)
    )


def test_a_shrink_waits_until_every_plan_has_been_smaller_for_a_while():
    governor = Governor(shrink_hold_s=4.0, dead_band_millicores=100)
    for at in (0.0, 1.0, 2.0, 3.0, 3.9):
        assert governor.decide(allocation(1100), allocation(500), at, settled=True) is None
    assert governor.decide(allocation(1100), allocation(500), 4.0, settled=True) == Verdict(
        Action.SHRINK, allocation(500)
    )


def test_a_shrink_goes_to_the_largest_plan_of_that_while():
    governor = Governor(shrink_hold_s=4.0, dead_band_millicores=100)
    for at, millicores in enumerate((500, 500, 800, 600, 500)):
        verdict = governor.decide(allocation(1100), allocation(millicores), float(at), settled=True)
    assert verdict == Verdict(Action.SHRINK, allocation(800))
    # A plan counts until it is as old as the hold.
    before = governor.decide(allocation(800), allocation(500), 5.99, settled=True)
    assert before is None
    verdict = governor.decide(allocation(800), allocation(500), 6.0, settled=True)
    assert verdict == Verdict(Action.SHRINK, allocation(600))


def test_a_demand_that_comes_and_goes_does_not_swing_the_quota():
    governor = Governor(shrink_hold_s=4.0, dead_band_millicores=100)
    current = allocation(500)
    changes = []
    for second in range(60):
        planned = allocation(1100 if second % 3 == 0 else 500)
        verdict = governor.decide(current, planned, float(second), settled=True)
        if verdict is not None:
            current = verdict.allocation
            changes.append(second)
    assert changes == [0]


def test_no_shrink_inside_the_dead_band_or_while_a_change_is_under_way():
    governor = Governor(shrink_hold_s=0.0, dead_band_millicores=100)
    assert governor.decide(allocation(1100), allocation(1050), 1.0, settled=True) is None
    assert governor.decide(allocation(1100), allocation(500), 2.0, settled=False) is None
    assert governor.decide(allocation(1100), allocation(500), 3.0, settled=True) is not None


def test_without_a_dead_band_the_same_plan_is_no_shrink():
    governor = Governor(shrink_hold_s=0.0, dead_band_millicores=0)
    assert governor.decide(allocation(700), allocation(700), 1.0, settled=True) is None
    assert governor.decide(allocation(700), allocation(699), 2.0, settled=True) is not None


def test_another_shape_for_the_same_cpu_is_taken_at_once():
    governor = Governor(shrink_hold_s=4.0, dead_band_millicores=100)
    assert governor.decide(allocation(2100, 1), allocation(2100, 2), 0.0, settled=True) == Verdict(
        Action.RESHAPE, allocation(2100, 2)
    )
    assert governor.decide(allocation(2100, 2), allocation(2100, 2), 1.0, settled=True) is None


def test_what_others_grow_into_is_left_at_once():
    governor = Governor(shrink_hold_s=4.0, dead_band_millicores=100)
    for now in (0.0, 0.05, 0.9 * OBSERVED_S):
        assert governor.decide(allocation(900), allocation(600), now, settled=True, crowded=True) is None
    assert governor.decide(
        allocation(900), allocation(700), OBSERVED_S, settled=True, crowded=True
    ) == Verdict(Action.SHRINK, allocation(700))
    assert governor.decide(allocation(700), allocation(600), 1.0, settled=False, crowded=True) is None


def test_a_shape_that_cannot_wait_changes_within_the_quota_that_is_held():
    governor = Governor(shrink_hold_s=4.0, dead_band_millicores=100, max_instances=6)
    threads, instances = Allocation(8100, 1, 8, 1, 700), Allocation(5100, 5, 1, 2, 500)
    assert governor.decide(threads, instances, 0.0, settled=True) is None
    assert governor.decide(threads, instances, 0.1, settled=False, urgent=True) is None
    widened = Allocation(8100, 6, 1, 2, 700)  # eight would use it all
    assert governor.decide(threads, instances, 0.2, settled=True, urgent=True) == Verdict(
        Action.RESHAPE, widened
    )
    assert governor.decide(widened, instances, 4.0, settled=True) == Verdict(Action.SHRINK, instances)


def test_what_is_urgent():
    assert urgent(1.1, 20.0)
    assert not urgent(0.9, 20.0)
    assert not urgent(0.04, 0.1)


def test_what_keeps_a_plan_from_being_put_in_force_is_known():
    governor = Governor(shrink_hold_s=4.0, dead_band_millicores=100)

    def hold(planned: Allocation, now: float, **more: bool) -> Hold | None:
        governor.decide(allocation(1100), planned, now, **{"settled": True, **more})
        return governor.hold

    assert governor.hold is None
    assert hold(allocation(1100), 0.0) is None
    assert hold(allocation(500), 1.0) is Hold.HELD
    assert hold(allocation(1050), 1.5) is Hold.DEAD_BAND
    assert hold(allocation(500), 2.0, settled=False) is Hold.SETTLING
    assert hold(allocation(1100), 2.1, settled=False) is None
    assert hold(allocation(1600), 2.2) is None
    assert hold(allocation(500), 2.3, crowded=True) is None
    # The planned shape on the quota that is held: not all of the plan.
    assert hold(allocation(500, instances=2), 2.4, urgent=True) is Hold.HELD
    # To the largest that counts, and no further; then to all of it.
    assert hold(allocation(800), 6.0) is Hold.HELD
    assert hold(allocation(700), 6.3) is Hold.HELD
    assert hold(allocation(500), 9.0) is Hold.HELD
    assert hold(allocation(500), 13.0) is None


def test_a_limit_of_memory_that_is_too_low_grows_at_once_whatever_becomes_of_the_cpu():
    governor = Governor(shrink_hold_s=4.0, dead_band_millicores=100)
    current = replace(allocation(1100), memory_bytes=100)
    for planned in (allocation(1100), allocation(1050), allocation(500)):
        verdict = governor.decide(current, replace(planned, memory_bytes=150), 1.0, settled=False)
        assert verdict == Verdict(Action.GROW, replace(current, memory_bytes=150))
    # With more CPU as planned; and none is no limit.
    larger = replace(allocation(2100), memory_bytes=150)
    assert governor.decide(current, larger, 2.0, settled=False) == Verdict(Action.GROW, larger)
    assert (
        governor.decide(allocation(1100), replace(allocation(1050), memory_bytes=150), 3.0, settled=True)
        is None
    )
