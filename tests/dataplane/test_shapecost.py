"""What shapes cost beside each other, and how that is learned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.shapecost import ShapeCosts
from tests.dataplane.requests import request


def tokens(count):
    """A request of one row of so many elements, in a shape of its own."""
    return request(1.0, shape=((count,),), inputs={"ids": np.zeros((1, count), np.int64)})


def costs(*shapes):
    """Costs of shapes that have been asked for."""
    met = ShapeCosts()
    for shape in shapes:
        met.meet(shape)
    return met


class TestOneShape:
    @given(st.lists(st.floats(0.01, 100.0)))
    def test_costs_one_exactly_whatever_is_seen(self, seen):
        only = costs(tokens(8))
        assert [only.learn(tokens(8), cost) for cost in seen] == [1.0] * len(seen)
        only.restart()
        assert only.of(tokens(8)) == 1.0

    def test_a_second_is_noticed_when_it_is_asked_for(self):
        two = costs(tokens(8))
        assert two.even
        two.meet(tokens(16))
        assert not two.even


class TestSizes:
    def test_what_was_not_seen_costs_as_its_size_says(self):
        expected = ShapeCosts()
        expected.expect({32: 0.5, 128: 1.5})
        assert [expected.of(tokens(count)) for count in (8, 32, 80, 128, 256)] == [0.5, 0.5, 1.0, 1.5, 3.0]

    def test_what_is_learned_of_one_size_tells_of_others(self):
        two = costs(tokens(10), tokens(20))
        two.learn(tokens(10), 1.0)
        assert two.of(tokens(20)) == 2.0
        two.learn(tokens(20), 5.0)
        assert [two.of(tokens(count)) for count in (10, 15, 20, 40)] == [1.0, 3.0, 5.0, 10.0]

    def test_equal_sizes_may_cost_otherwise(self):
        wide, tall = (request(1.0, shape=shape) for shape in ("wide", "tall"))
        two = costs(wide, tall)
        two.learn(wide, 1.0)
        two.learn(tall, 3.0)
        assert (two.of(wide), two.of(tall)) == (1.0, 3.0)


class TestLearning:
    def test_the_first_execution_decides_and_later_ones_correct_it(self):
        two = costs(tokens(1), tokens(2))
        assert two.learn(tokens(2), 9.0) == 9.0
        for _ in range(60):
            two.learn(tokens(2), 3.0)
        assert two.of(tokens(2)) == pytest.approx(3.0, rel=0.01)

    def test_what_has_not_run_for_longest_is_forgotten_first(self):
        many = costs(tokens(1), tokens(2))
        for count in range(1, 66):
            many.learn(tokens(count), 7.0 if count == 1 else 1.0)
        assert many.of(tokens(1)) == 1.0  # as the smallest that is known

    def test_shapes_that_never_ran_displace_one_at_most(self):
        many = costs(tokens(1), tokens(2))
        for count in range(1, 65):
            many.learn(tokens(count), 1.0 if count % 2 else 5.0)
        for count in range(1000, 1100):
            many.refuse(tokens(count), 0.0)
        assert [many.of(tokens(count)) for count in range(2, 65)] == [
            1.0 if n % 2 else 5.0 for n in range(2, 65)
        ]

    def test_refused_for_seconds_without_a_run_it_is_believed_to_cost_less(self):
        two = costs(tokens(1), tokens(2))
        two.learn(tokens(2), 8.0)
        for now, cost in [(0.0, 8.0), (0.9, 8.0), (1.0, 4.0), (1.5, 4.0), (2.0, 2.0)]:
            two.refuse(tokens(2), now)
            assert two.of(tokens(2)) == cost
        assert two.learn(tokens(2), 6.0) == 6.0  # and when it has run, that counts
        two.refuse(tokens(2), 2.5)
        assert two.of(tokens(2)) == 6.0

    def test_a_new_table_is_for_the_mean_of_what_ran(self):
        two = costs(tokens(1), tokens(2))
        for _ in range(500):
            two.learn(tokens(1), 1.0)
            two.learn(tokens(2), 3.0)
        two.restart()
        assert two.of(tokens(1)) == pytest.approx(0.5, rel=0.02)
        assert two.of(tokens(2)) == pytest.approx(1.5, rel=0.02)

    def test_of_another_model_nothing_is_known_but_what_is_measured_then(self):
        two = costs(tokens(8), tokens(16))
        two.expect({8: 1.0, 16: 2.0})
        two.learn(tokens(8), 3.0)
        two.learn(tokens(16), 5.0)
        two.forget()
        assert (two.of(tokens(8)), two.of(tokens(16)), two.even) == (1.0, 1.0, False)
        two.expect({8: 0.5, 16: 1.5})
        assert (two.of(tokens(8)), two.of(tokens(16))) == (0.5, 1.5)


class TestServiceTimes:
    @given(st.integers(0, 2**16), st.sampled_from([0.1, 1.0, 8.0]), st.sampled_from([0.3, 1.0, 4.0]))
    def test_machine_and_shape_are_told_apart(self, seed, cost, factor):
        """A shape that costs `cost` times another, on a machine `factor` times slower than the table."""
        rng = np.random.default_rng(seed)
        times = ServiceTimes([ServiceTime(1, 0.010, 0.008, 0.013), ServiceTime(4, 0.025, 0.020, 0.032)])
        shapes = {1.0: tokens(3), cost: tokens(2)}
        for shape in shapes.values():
            times.costs.meet(shape)
        base = {1: 0.010, 4: 0.025}

        def run(executions):
            for _ in range(executions):
                true = rng.choice([*shapes])
                rows = int(rng.choice([1, 4]))
                times.observe(rows, base[rows] * factor * true * rng.uniform(0.95, 1.05), shapes[true])

        run(200)
        for true, shape in shapes.items():
            assert times.mean(4) * times.costs.of(shape) == pytest.approx(0.025 * factor * true, rel=0.1)
        factor *= 2  # the machine slows down, and one shape tells of the other
        for _ in range(40):
            times.observe(1, base[1] * factor, shapes[1.0])
        assert times.mean(1) * times.costs.of(shapes[1.0]) == pytest.approx(0.010 * factor, rel=0.1)
        assert times.mean(1) * times.costs.of(shapes[cost]) > 0.010 * factor * cost * 0.5
