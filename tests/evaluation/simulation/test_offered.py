"""Mixes, send times, and uploads by the integral of the bandwidth."""

import pytest

from evaluation.bandwidth import BandwidthTrace
from evaluation.simulation.offered import Mix, RatesError, offer, send_times


def test_mixes():
    assert Mix.parse("284") == Mix((284.0,), (1.0,))
    assert Mix.parse("100:1,500:3") == Mix((100.0, 500.0), (0.25, 0.75))
    for text in ("", "0", "1:0", "a", "1,-2", "1:2:3"):
        with pytest.raises(ValueError, match=r"could not convert|expected numbers"):
            Mix.parse(text)


def test_an_upload_waits_for_bandwidth_and_may_be_overtaken():
    # Nothing for two seconds, then 1000 bytes/s.
    link = BandwidthTrace((2.0, 10.0), (0.0, 1000.0))
    found = offer([0.0, 1.9, 5.0], link, Mix((500.0,), (1.0,)), Mix((1.0,), (1.0,)), (1,))
    assert list(found.arrived_s) == pytest.approx([2.5, 2.5, 5.5])
    assert list(found.deadline_s) == pytest.approx([1.0, 2.9, 6.0])


def test_a_header_comes_before_the_rest_of_its_upload():
    link = BandwidthTrace((2.0, 10.0), (0.0, 1000.0))
    large, small = (offer([0.0], link, Mix((n,), (1.0,)), Mix((9.0,), (1.0,)), (1,)) for n in (2000.0, 100.0))
    assert (*large.header_s, *large.arrived_s) == pytest.approx((2.5, 4.0))
    assert (*small.header_s, *small.arrived_s) == pytest.approx((2.1, 2.1))


def test_requests_come_in_the_order_of_arrival():
    link = BandwidthTrace.constant(1000.0)
    found = offer([0.0, 0.1], link, Mix((100.0, 1000.0), (0.5, 0.5)), Mix((1.0,), (1.0,)), (5,))
    assert list(found.arrived_s) == sorted(found.arrived_s)
    assert found.rate(0.0, 0.1) == pytest.approx(10)
    assert found.rate(0.0, 0.2) == pytest.approx(10)


def test_constant_rate_is_the_same_in_every_second():
    times = send_times("constant", 20.0, 3.0, None, seed=1)
    assert [sum(s <= t < s + 1 for t in times) for s in range(3)] == [20, 20, 20]


def test_rates_are_scaled_and_start_again(tmp_path):
    path = tmp_path / "rates.txt"
    path.write_text("100 0\n300 0")
    times = send_times(str(path), 1.0, 400.0, 20.0, seed=3)
    assert len(times) == pytest.approx(8000, rel=0.05)
    assert not any(1 <= t % 4 < 2 or t % 4 >= 3 for t in times)
    assert sum(2 <= t % 4 < 3 for t in times) == pytest.approx(6000, rel=0.05)
    assert send_times(str(path), 1.0, 400.0, 20.0, seed=3) == times


@pytest.mark.parametrize("text", ["", "1 x", "1 -1", "0 0"])
def test_rates_that_cannot_be(tmp_path, text):
    path = tmp_path / "rates.txt"
    path.write_text(text)
    with pytest.raises(RatesError, match=str(path)):
        send_times(str(path), 1.0, 2.0, None, seed=1)


def test_a_flash_crowd_adds_to_the_rate():
    times = send_times("flash:5,100,20", 40.0, 200.0, None, seed=1)
    assert sum(100 <= t < 120 for t in times) == pytest.approx(4000, rel=0.06)
    assert sum(not 100 <= t < 120 for t in times) == pytest.approx(7200, rel=0.05)
    scaled = send_times("flash:5,100,20", 1.0, 200.0, 40.0, seed=1)
    assert len(scaled) == pytest.approx(8000, rel=0.05)
    assert sum(100 <= t < 120 for t in scaled) == pytest.approx(8000 * 100 / 280, rel=0.08)


def test_a_drift_has_the_rate_in_the_mean_and_most_in_the_middle():
    times = send_times("drift:4", 50.0, 400.0, None, seed=1)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    ends = sum(t < 20 or t >= 380 for t in times)
    assert sum(180 <= t < 220 for t in times) / ends == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ("flash:5,100", "expected constant, poisson, flash:FACTOR,AT_S,LENGTH_S"),
        ("flash", "expected constant, poisson, flash:FACTOR,AT_S,LENGTH_S"),
        ("flash:5,x,20", "expected constant, poisson, flash:FACTOR,AT_S,LENGTH_S"),
        ("flash:0,100,20", "expected a factor and a length above zero"),
        ("flash:5,200,20", "expected it to begin within the 200 s of the run"),
        ("drift:", "drift:FACTOR"),
        ("drift:0.5", "expected a factor of 1 or more"),
    ],
)
def test_arrivals_that_cannot_be(arrivals, expected):
    with pytest.raises(RatesError, match=expected) as caught:
        send_times(arrivals, 20.0, 200.0, None, seed=1)
    assert str(caught.value).startswith(f"arrivals: {arrivals!r}: ")
    assert "\n" not in str(caught.value)
