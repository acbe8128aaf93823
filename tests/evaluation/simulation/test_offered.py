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
