"""The batcher, case by case, in virtual time; all of it at once is in test_batcher_machine."""

import pytest

from dataplane.batcher import Batcher, Shape
from dataplane.request import Outcome
from dataplane.servicetime import ServiceTime, ServiceTimes
from tests.dataplane.requests import request
from tests.dataplane.virtual import serve


def times(*means, spread=0.0):
    """Service times of 1, 2, … rows: the mean, and quantiles `spread` of it away."""
    return ServiceTimes(
        [
            ServiceTime(rows, mean, mean * (1 - spread), mean * (1 + spread))
            for rows, mean in enumerate(means, start=1)
        ]
    )


def batcher(instances=1, max_batch=1, service_times=None, max_queue=100, patience_s=0.0):
    return Batcher(Shape(instances, 1, max_batch), service_times or times(1.0), max_queue, patience_s)


def add(to, *requests):
    for each in requests:
        assert to.add(each)
    return requests


def started(step):
    return [list(execution.requests) for execution in step.start]


def dropped(step):
    return [(drop.request, drop.outcome) for drop in step.drop]


class TestOrder:
    def test_earliest_deadline_first(self):
        one = batcher()
        later, earlier = add(one, request(9.0), request(5.0))
        step = one.step(0.0)
        assert started(step) == [[earlier]]
        one.finish(step.start[0], 1.0)
        assert started(one.step(1.0)) == [[later]]

    def test_priority_does_not_reorder_what_can_make_it(self):
        one = batcher()
        _, earlier = add(one, request(9.0, priority=5), request(5.0))
        assert started(one.step(0.0)) == [[earlier]]

    def test_late_ones_run_after_all_that_can_be_on_time(self):
        one = batcher()
        late, live = add(one, request(0.5, grace_s=50.0), request(9.0))
        step = one.step(0.6)
        assert started(step) == [[live]]
        assert list(one.late) == [late]
        one.finish(step.start[0], 1.6)
        assert started(one.step(1.6)) == [[late]]


class TestBatch:
    ECONOMICAL = (1.0, 1.2, 1.4, 1.6)

    def test_every_idle_slot_has_work_before_a_batch_grows(self):
        three = batcher(instances=3, max_batch=4, service_times=times(*self.ECONOMICAL))
        requests = add(three, *(request(9.0) for _ in range(4)))
        assert started(three.step(0.0)) == [list(requests[:2]), [requests[2]], [requests[3]]]

    def test_grows_only_while_the_earliest_deadline_allows(self):
        one = batcher(max_batch=4, service_times=times(*self.ECONOMICAL))
        requests = add(one, request(1.3), *(request(9.0) for _ in range(3)))
        assert started(one.step(0.0)) == [list(requests[:2])]

    def test_the_upper_quantile_decides_how_far(self):
        one = batcher(max_batch=4, service_times=times(*self.ECONOMICAL, spread=0.2))
        requests = add(one, request(1.5), *(request(9.0) for _ in range(3)))
        assert started(one.step(0.0)) == [list(requests[:2])]

    def test_the_mean_decides_where_the_upper_quantile_is_past_the_deadline_anyway(self):
        one = batcher(max_batch=4, service_times=times(*self.ECONOMICAL, spread=0.5))
        requests = add(one, request(1.45), *(request(9.0) for _ in range(3)))
        assert started(one.step(0.0)) == [list(requests[:3])]

    def test_stops_where_a_row_gets_no_cheaper(self):
        one = batcher(max_batch=4, service_times=times(1.0, 1.5, 3.0, 4.0))
        requests = add(one, *(request(50.0) for _ in range(4)))
        assert started(one.step(0.0)) == [list(requests[:2])]

    def test_no_batches_where_they_do_not_pay(self):
        one = batcher(max_batch=4, service_times=times(1.0, 2.0, 3.0, 4.0))
        requests = add(one, *(request(50.0) for _ in range(4)))
        assert started(one.step(0.0)) == [[requests[0]]]

    def test_only_equal_shapes_share_one(self):
        one = batcher(max_batch=4, service_times=times(*self.ECONOMICAL))
        first, _, third = add(one, request(9.0), request(9.0, shape="b"), request(9.0))
        assert started(one.step(0.0)) == [[first, third]]

    def test_does_not_pass_over_a_request_to_fill_up(self):
        one = batcher(max_batch=4, service_times=times(*self.ECONOMICAL))
        first, *_ = add(one, request(9.0, rows=2), request(9.0, rows=3), request(9.0))
        assert started(one.step(0.0)) == [[first]]

    def test_more_rows_than_the_limit_run_alone(self):
        one = batcher(max_batch=2, service_times=times(*self.ECONOMICAL))
        first, *_ = add(one, request(9.0, rows=4), request(9.0))
        assert started(one.step(0.0)) == [[first]]


class TestShapes:
    """Two shapes, of which b costs a tenth or ten times as much as a."""

    def batcher(self, cost, instances=1, max_batch=8):
        one = batcher(instances, max_batch, times(*(0.5 + 0.5 * rows for rows in range(1, 9))))
        for shape, seen in (("a", 1.0), ("b", cost)):
            one.times.costs.meet(request(9.0, shape=shape))
            one.times.costs.learn(request(9.0, shape=shape), seen)
        return one

    def test_a_short_deadline_is_hopeless_for_the_dear_only(self):
        one = self.batcher(cost=10.0)
        add(one, request(5.0))
        one.step(0.0)
        cheap, dear = add(one, request(5.0), request(5.0, shape="b"))
        step = one.step(0.0)
        assert dropped(step) == [(dear, Outcome.REFUSED)]
        assert step.drop[0].predicted_s == pytest.approx(12.0)  # two cheap ones, and then ten seconds
        assert list(one.live) == [cheap]

    def test_what_runs_is_over_when_its_shape_says(self):
        one = self.batcher(cost=0.1)
        add(one, request(9.0, shape="b"))
        one.step(0.0)
        (waiting,) = add(one, request(1.2))
        assert list(one.step(0.0).drop) == []
        assert list(one.live) == [waiting]

    def test_a_batch_does_not_pass_an_earlier_deadline_that_it_would_break(self):
        one = self.batcher(cost=1.0)
        first, passed, *others = add(
            one, request(5.0), request(5.4, shape="b"), *(request(50.0) for _ in range(7))
        )
        # Eight rows would end at 4.5, and the other shape at 5.5.
        assert started(one.step(0.0)) == [[first, *others[:6]]]
        assert list(one.live) == [passed, others[6]]

    def test_a_batch_passes_one_that_the_next_idle_slot_takes(self):
        two = self.batcher(cost=1.0, instances=2)
        first, passed, *others = add(
            two, request(5.0), request(1.2, shape="b"), *(request(50.0) for _ in range(4))
        )
        # In the order of deadlines the other shape comes first, and alone.
        assert started(two.step(0.0)) == [[passed], [first, *others]]

    def test_what_is_late_whatever_happens_holds_nobody_up(self):
        one = self.batcher(cost=10.0)
        first, _, *others = add(
            one, request(5.0), request(5.4, shape="b"), *(request(50.0) for _ in range(3))
        )
        step = one.step(0.0)
        assert started(step) == [[first, *others]]

    @pytest.mark.parametrize("believed", [1.0, 30.0])
    def test_a_shape_believed_too_dear_is_tried_again_although_no_slot_is_ever_idle(self, believed):
        one = self.batcher(cost=believed, max_batch=1)
        arrivals = [
            request(0.1 * n + 100.0, arrived_at=0.1 * n)
            for n in range(1000)  # ten times what it can take
        ] + [request(n + 4.0, shape="b", arrived_at=n + 0.05) for n in range(100)]
        arrivals.sort(key=lambda r: r.queued_at)
        ended = serve(one, arrivals, lambda execution: execution.rows, until=100.0)
        lately = [outcome for r, outcome in ended.items() if r.shape_key == "b" and r.arrived_at > 20]
        assert lately.count(Outcome.ON_TIME) > 30


class TestRefusal:
    def test_never_while_a_slot_is_idle_and_the_lower_quantile_fits(self):
        one = batcher(service_times=times(1.0, spread=0.3))
        first, second = add(one, request(0.8), request(0.95))
        step = one.step(0.0)
        assert started(step) == [[first]]
        assert dropped(step) == [(second, Outcome.REFUSED)]

    def test_when_even_the_lower_quantile_does_not_fit(self):
        one = batcher(service_times=times(1.0, spread=0.3))
        probe = add(one, request(9.0))
        step = one.step(0.0)
        assert started(step) == [list(probe)]
        one.finish(step.start[0], 0.5)
        (hopeless,) = add(one, request(1.1))
        step = one.step(0.5)
        assert dropped(step) == [(hopeless, Outcome.REFUSED)]
        assert step.drop[0].predicted_s == pytest.approx(0.7)
        assert step.distress

    def test_whatever_is_predicted_one_execution_a_second_runs(self):
        one = batcher(service_times=times(100.0))
        (first,) = add(one, request(1.0))
        step = one.step(0.0)
        assert started(step) == [[first]]
        one.finish(step.start[0], 0.1)
        (too_soon,) = add(one, request(1.9))
        assert dropped(one.step(0.9)) == [(too_soon, Outcome.REFUSED)]
        (probe,) = add(one, request(2.0))
        assert started(one.step(1.0)) == [[probe]]

    def test_with_all_slots_busy_the_mean_decides(self):
        one = batcher(service_times=times(1.0, spread=0.5))
        add(one, request(9.0))
        one.step(0.0)
        fits, misses = add(one, request(2.1), request(2.9))
        step = one.step(0.0)
        assert dropped(step) == [(misses, Outcome.REFUSED)]
        assert step.drop[0].predicted_s == pytest.approx(3.0)
        assert list(one.live) == [fits]

    def test_a_more_urgent_request_displaces_one_accepted_before(self):
        one = batcher()
        add(one, request(9.0))
        one.step(0.0)
        (accepted,) = add(one, request(2.5))
        assert not one.step(0.0).drop
        (urgent,) = add(one, request(2.2))
        assert dropped(one.step(0.0)) == [(accepted, Outcome.REFUSED)]
        assert list(one.live) == [urgent]

    def test_the_lowest_priority_makes_room(self):
        one = batcher()
        add(one, request(9.0))
        one.step(0.0)
        low, middle, high = add(
            one, request(3.1, priority=0), request(3.2, priority=1), request(3.3, priority=2)
        )
        assert dropped(one.step(0.0)) == [(low, Outcome.REFUSED)]
        assert list(one.live) == [middle, high]

    def test_nobody_makes_room_in_vain(self):
        one = batcher()
        add(one, request(9.0))
        one.step(0.0)
        low, high = add(one, request(2.1, priority=0), request(1.5, priority=9, rank_at=2.2))
        assert dropped(one.step(0.0)) == [(high, Outcome.REFUSED)]
        assert list(one.live) == [low]

    def test_with_grace_it_is_late_instead(self):
        one = batcher()
        add(one, request(9.0))
        one.step(0.0)
        (patient,) = add(one, request(1.5, grace_s=5.0))
        step = one.step(0.0)
        assert not step.drop
        assert step.distress
        assert list(one.late) == [patient]

    def test_a_full_queue_takes_nothing(self):
        one = batcher(max_queue=1)
        add(one, request(9.0))
        assert not one.add(request(9.0))

    def test_late_requests_make_way_for_live_ones(self):
        one = batcher(max_queue=2)
        add(one, request(9.0))
        one.step(0.0)
        sooner, later = add(one, request(0.1, grace_s=60.0), request(0.2, grace_s=60.0))
        assert not one.step(0.0).drop
        assert list(one.late) == [sooner, later]
        (live,) = add(one, request(9.0))
        assert dropped(one.step(0.0)) == [(later, Outcome.QUEUE_FULL)]
        assert (list(one.live), list(one.late)) == ([live], [sooner])
        add(one, request(9.0))
        assert dropped(one.step(0.0)) == [(sooner, Outcome.QUEUE_FULL)]
        assert not one.add(request(9.0))


class TestTime:
    def test_a_deadline_that_passes_while_queued_ends_it(self):
        one = batcher()
        add(one, request(9.0))
        one.step(0.0)
        (waiting,) = add(one, request(2.5))
        step = one.step(0.0)
        assert step.wake_at == 2.5
        step = one.step(2.5)
        assert dropped(step) == [(waiting, Outcome.EXPIRED)]
        assert step.wake_at is None

    def test_grace_ends_too(self):
        one = batcher()
        add(one, request(9.0))
        one.step(0.0)
        (patient,) = add(one, request(2.5, grace_s=1.0))
        one.step(0.0)
        assert one.step(2.5).wake_at == 3.5
        assert dropped(one.step(3.5)) == [(patient, Outcome.EXPIRED)]

    def test_distress_when_the_upper_quantile_misses(self):
        one = batcher(service_times=times(1.0, spread=0.5))
        add(one, request(9.0))
        assert not one.step(0.0).distress
        add(one, request(2.4))
        step = one.step(0.0)
        assert not step.drop
        assert step.distress

    def test_held_it_starts_nothing_and_wakes_when_that_is_over(self):
        one = batcher()
        (waiting,) = add(one, request(9.0))
        one.hold_until = 2.0
        step = one.step(1.0)
        assert not step.start
        assert step.wake_at == 2.0
        assert started(one.step(2.0)) == [[waiting]]

    def test_overrunning_executions_are_soon_over(self):
        one = batcher()
        add(one, request(9.0))
        one.step(0.0)
        (waiting,) = add(one, request(6.2))
        assert not one.step(5.0).drop  # 0.1 s to its end, then 1 s
        assert list(one.live) == [waiting]


class TestReshape:
    def test_more_slots_at_once(self):
        one = batcher()
        requests = add(one, request(9.0), request(9.0))
        assert len(one.step(0.0).start) == 1
        one.reshape(Shape(2, 1, 1, (1, 1)))
        assert started(one.step(0.1)) == [[requests[1]]]

    def test_fewer_as_executions_end(self):
        two = batcher(instances=2)
        requests = add(two, *(request(9.0) for _ in range(3)))
        first, second = two.step(0.0).start
        two.reshape(Shape(1, 1, 1, (1, 1)))
        two.finish(first, 1.0)
        assert not two.step(1.0).start
        two.finish(second, 1.1)
        assert started(two.step(1.1)) == [[requests[2]]]

    def test_acknowledged_when_nothing_older_runs(self):
        one = batcher()
        add(one, request(9.0))
        (execution,) = one.step(0.0).start
        one.reshape(Shape(1, 2, 1, (1, 7)))
        assert one.acknowledged == (0, 0)
        one.finish(execution, 1.0)
        assert one.acknowledged == (1, 7)

    def test_what_was_given_up_gets_another_chance(self):
        one = batcher()
        add(one, request(9.0))
        one.step(0.0)
        (patient,) = add(one, request(1.5, grace_s=9.0))
        one.step(0.0)
        one.reshape(Shape(2, 1, 1, (1, 1)))
        assert started(one.step(0.1)) == [[patient]]

    @pytest.mark.parametrize(
        ("shape", "mixed"),
        [(Shape(1, 2, 1), True), (Shape(2, 1, 1), True), (Shape(1, 1, 4), False)],
    )
    def test_executions_under_way_are_marked_where_it_matters_to_them(self, shape, mixed):
        one = batcher()
        add(one, request(9.0))
        (execution,) = one.step(0.0).start
        one.reshape(shape)
        assert execution.mixed is mixed


def test_busy_slots_are_a_mean_over_time():
    two = batcher(instances=2)
    add(two, request(9.0))
    (long,) = two.step(0.0).start
    add(two, request(9.0))
    (short,) = two.step(1.0).start
    assert two.finish(short, 2.0) == 2.0
    assert two.finish(long, 4.0) == pytest.approx(1.25)


class TestDoubt:
    """One slot, busy until 1.0; executions take 0.8 to 1.2."""

    def busy(self, max_queue=100):
        one = batcher(service_times=times(1.0, spread=0.2), max_queue=max_queue, patience_s=0.25)
        add(one, request(9.0))
        [execution] = one.step(0.0).start
        return one, execution

    def test_what_cannot_make_it_as_things_are_waits_for_more(self):
        one, _ = self.busy()
        (doubtful,) = add(one, request(1.9))
        step = one.step(0.0)
        assert not step.drop
        assert step.distress
        assert step.wake_at == 0.25
        assert (list(one.live), list(one.doubtful)) == ([], [doubtful])
        step = one.step(0.25)
        assert dropped(step) == [(doubtful, Outcome.REFUSED)]
        assert step.drop[0].predicted_s == pytest.approx(1.75)

    def test_more_slots_save_it(self):
        one, _ = self.busy()
        (doubtful,) = add(one, request(1.9))
        one.step(0.0)
        one.reshape(Shape(2, 1, 1))
        assert started(one.step(0.1)) == [[doubtful]]

    def test_so_does_a_slot_that_is_idle_sooner(self):
        one, execution = self.busy()
        (doubtful,) = add(one, request(1.1))
        one.step(0.0)
        one.finish(execution, 0.2)
        assert started(one.step(0.2)) == [[doubtful]]

    def test_what_can_make_it_runs_before(self):
        one, execution = self.busy()
        _, live = add(one, request(1.1), request(2.5))
        one.step(0.0)
        one.finish(execution, 0.2)
        assert started(one.step(0.2)) == [[live]]

    def test_patience_ends_with_the_last_chance(self):
        one, _ = self.busy()
        (doubtful,) = add(one, request(0.9))
        assert one.step(0.0).wake_at == pytest.approx(0.1)
        assert dropped(one.step(0.1)) == [(doubtful, Outcome.REFUSED)]

    def test_patience_is_had_once(self):
        one, _ = self.busy()
        (doubtful,) = add(one, request(1.9))
        one.step(0.0)
        one.reshape(Shape(1, 2, 1))
        assert not one.step(0.2).drop
        one.reshape(Shape(1, 1, 1))
        assert dropped(one.step(0.3)) == [(doubtful, Outcome.REFUSED)]

    def test_with_grace_it_is_late_in_the_end(self):
        one, _ = self.busy()
        (doubtful,) = add(one, request(1.9, grace_s=5.0))
        one.step(0.0)
        one.step(0.25)
        assert list(one.late) == [doubtful]

    def test_it_can_be_cancelled(self):
        one, _ = self.busy()
        (doubtful,) = add(one, request(1.9))
        one.step(0.0)
        assert one.cancel(doubtful)
        assert not one.cancel(doubtful)
        assert len(one) == 0

    def test_it_takes_no_place_from_what_can_make_it(self):
        one, _ = self.busy(max_queue=1)
        (doubtful,) = add(one, request(1.9))
        one.step(0.0)
        (live,) = add(one, request(9.0))
        assert dropped(one.step(0.0)) == [(doubtful, Outcome.QUEUE_FULL)]
        assert list(one.live) == [live]
