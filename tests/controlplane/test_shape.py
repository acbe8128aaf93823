"""Shapes that are worth a look, within what a service may have and a host has."""

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.shape import Limits, ladder, shapes


@settings(deadline=None)
@given(
    low=st.integers(1, 9000),
    extra=st.integers(0, 20_000),
    host=st.integers(1, 20_000),
    instances=st.integers(1, 8),
    threads=st.integers(1, 8),
)
def test_shapes_are_within_limits_and_never_none(low, extra, host, instances, threads):
    limits = Limits(low, low + extra, instances, threads, 4)
    found = shapes(limits, host)
    assert found
    assert len(set(found)) == len(found)
    for millicores, n, t in found:
        assert min(low, low + extra, host) <= millicores <= min(low + extra, host)
        assert 1 <= n <= instances
        assert t in (1, 2, 4, 8)
        assert t <= threads
        assert n * t == 1 or 1000 * n * t < millicores + 1000


@given(low=st.integers(1, 9000), extra=st.integers(0, 20_000), host=st.integers(1, 20_000))
def test_shapes_are_steps_apart_on_hosts_and_within_bounds_of_odd_size_too(low, extra, host):
    limits = Limits(low, low + extra, 4, 4, 4)
    most = min(low + extra, host)
    steps = [quota for quota in range(100, most + 1, 100) if quota >= low]
    assert limits.within(host) == ((steps[0], steps[-1]) if steps else (most, most))
    quotas = {quota for quota, _, _ in shapes(limits, host)}
    assert {(quota - min(quotas)) % 100 for quota in quotas} == {0}


@given(
    low=st.integers(100, 4000),
    ceiling=st.integers(1000, 8000),
    host=st.integers(0, 9000),
    instances=st.integers(1, 4),
    threads=st.integers(1, 4),
)
def test_whole_cores_are_as_many_as_threads_or_the_floor(low, ceiling, host, instances, threads):
    low = min(low, ceiling)
    found = shapes(Limits(low, ceiling, instances, threads, 4, whole_cores=True), host)
    assert found
    for millicores, n, t in found:
        assert millicores % 1000 == 0
        assert 1000 * n * t <= millicores
        least = min(-(-low // 1000), max(1, min(ceiling, host) // 1000))
        assert millicores == max(1000 * least, 1000 * n * t)
        assert millicores <= ceiling
        assert millicores <= max(1000, host)  # of less there is no shape


def test_shapes_in_whole():
    found = shapes(Limits(800, 64_000, 3, 1, 1), 3300)
    ones = [(800, 1, 1), (900, 1, 1), (1100, 1, 1)]
    twos = [(m, 2, 1) for m in range(1100, 2200, 100) if m != 2000]
    assert list(found) == [*ones, *twos, (2500, 3, 1), (3100, 3, 1)]


def test_what_does_not_divide_into_cores_is_used_where_it_is_the_ceiling():
    assert (3700, 4, 1) in shapes(Limits(), 3700)
    assert max(shapes(Limits(), 3400)) == (3100, 3, 1)
    assert max(shapes(Limits(), 3500)) == (3500, 4, 1)


def test_ladder():
    assert ladder(1) == (1,)
    assert ladder(20) == (1, 2, 3, 4, 6, 8, 12, 16, 20)
