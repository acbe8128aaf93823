import csv
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.bandwidth import BandwidthTrace, Outage, TraceError, read, synthetic

rates = st.one_of(st.just(0.0), st.floats(1e3, 1e7))
pieces = st.lists(st.tuples(st.floats(0.05, 2.0), rates), min_size=1, max_size=12).filter(
    lambda rows: any(rate > 0 for _, rate in rows)
)
links = pieces.map(lambda rows: BandwidthTrace(*zip(*rows, strict=True)))
starts = st.floats(0, 100)
sizes = st.floats(1, 1e6)


@given(links, starts, sizes)
def test_finish_is_when_the_size_has_been_delivered(trace, start_s, size):
    end_s = trace.finish(start_s, size)
    assert end_s > start_s
    assert trace.delivered(start_s, end_s) == pytest.approx(size, rel=1e-6, abs=1)


@given(links, starts, sizes)
def test_nothing_less_than_finish_suffices(trace, start_s, size):
    end_s = trace.finish(start_s, size)
    earlier_s = start_s + 0.999 * (end_s - start_s)
    assert trace.delivered(start_s, earlier_s) < size


@given(links, starts, sizes, sizes)
def test_more_bytes_never_finish_earlier(trace, start_s, one, other):
    assert trace.finish(start_s, min(one, other)) <= trace.finish(start_s, max(one, other))


@given(links, starts, starts, sizes)
def test_who_starts_earlier_is_never_overtaken(trace, one_s, other_s, size):
    slack_s = 1e-6
    assert trace.finish(min(one_s, other_s), size) <= trace.finish(max(one_s, other_s), size) + slack_s


@given(links, starts, sizes, sizes)
def test_two_parts_in_a_row_take_as_long_as_the_whole(trace, start_s, one, other):
    whole_s = trace.finish(start_s, one + other)
    # Rounding may carry the border of the parts over a stretch of zeros, but never the end.
    assert trace.finish(trace.finish(start_s, one), other) == pytest.approx(whole_s, abs=1e-5)


def test_seconds_without_bandwidth_are_waited_for():
    trace = BandwidthTrace((1.0, 2.0, 1.0), (100.0, 0.0, 100.0))
    assert trace.finish(0.0, 100) == 1.0  # the end of the first piece, not of the zeros
    assert trace.finish(0.0, 150) == 3.5
    assert trace.finish(1.5, 50) == 3.5
    assert trace.delivered(0.5, 2.5) == 50.0
    assert trace.delivered(2.0, 1.0) == 0.0


def test_the_trace_starts_again_after_its_end():
    trace = BandwidthTrace((1.0, 1.0), (0.0, 100.0))
    assert trace.finish(0.0, 100) == 2.0
    assert trace.finish(1.5, 100) == 3.5
    assert trace.finish(2.0, 1000) == 22.0
    assert trace.delivered(0.0, 100.0) == 5000.0


def test_nothing_to_send_is_through_at_once():
    assert BandwidthTrace.constant(100.0).finish(3.25, 0) == 3.25


outages = st.lists(st.builds(Outage, st.floats(0, 60), st.floats(0.1, 8)), max_size=3)


@given(links, outages, st.floats(0, 90), st.floats(0, 8))
def test_an_outage_takes_what_it_covers_and_nothing_else(trace, outages, start_s, length_s):
    """Piece by piece, so that every instant is inside or outside; repeated laps of the trace have no outage."""
    interrupted = trace.interrupted(outages, until_s=100.0)
    end_s = start_s + length_s
    borders = {start_s, end_s, *(at for o in outages for at in (o.at_s, o.end_s) if start_s < at < end_s)}
    expected = sum(
        trace.delivered(since, until)
        for since, until in itertools.pairwise(sorted(borders))
        if not any(o.at_s <= since and until <= o.end_s for o in outages)
    )
    assert interrupted.delivered(start_s, end_s) == pytest.approx(expected, rel=1e-6, abs=1)


def test_uploads_wait_for_the_end_of_an_outage_and_go_on():
    trace = BandwidthTrace.constant(1000.0).interrupted([Outage(10.0, 3.0)], until_s=600.0)
    assert trace.finish(9.5, 1000) == pytest.approx(13.5)
    assert trace.finish(11.0, 500) == pytest.approx(13.5)
    assert trace.finish(13.0, 500) == pytest.approx(13.5)
    assert trace.finish(9.5, 500) == pytest.approx(10.0)


def test_an_outage_at_the_end_of_a_lap_or_a_run_is_over_when_it_says():
    log = BandwidthTrace((1.0, 1.0), (1000.0, 2000.0))
    across = log.interrupted([Outage(9.5, 1.0)], until_s=10.0)
    assert across.delivered(9.0, 10.5) == pytest.approx(1000)
    assert across.finish(9.75, 500) == pytest.approx(11.0)
    assert across.delivered(3.5, 4.5) == pytest.approx(log.delivered(3.5, 4.5))


def test_an_outage_longer_than_the_log_ends_too():
    trace = BandwidthTrace((1.0, 1.0), (0.0, 100.0)).interrupted([Outage(1.0, 20.0)], until_s=5.0)
    assert trace.finish(1.0, 50) == pytest.approx(21.5)


def test_no_outage_changes_nothing():
    trace = BandwidthTrace.constant(1000.0)
    assert trace.interrupted([], until_s=600.0) is trace


def test_outages_as_text():
    assert Outage.parse("100:3") == (Outage(100, 3),)
    assert Outage.parse("0:0.5,400:5") == (Outage(0, 0.5), Outage(400, 5))


@pytest.mark.parametrize(
    "text", ["", "100", "100:", "a:3", "100:0", "-1:3", "100:inf", "nan:1", "1:2:3", "1:2,"]
)
def test_outages_that_cannot_be(text):
    with pytest.raises(ValueError, match=r"expected .* got '") as caught:
        Outage.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("durations", "bandwidths", "expected"),
    [
        ((1.0,), (), "as many durations"),
        ((0.0,), (1.0,), "positive seconds"),
        ((1.0,), (-1.0,), "non-negative"),
        ((1.0,), (math.nan,), "non-negative"),
        ((1.0,), (0.0,), "above zero"),
        ((), (), "above zero"),
    ],
)
def test_impossible_traces_are_refused(durations, bandwidths, expected):
    with pytest.raises(ValueError, match=expected):
        BandwidthTrace(durations, bandwidths)


@pytest.mark.parametrize(
    ("name", "text", "durations", "bandwidths"),
    [
        ("a.json", '[{"duration_ms": 500, "bandwidth_kbps": 8, "latency_ms": 20}]', (0.5,), (1000.0,)),
        ("a.log", "145 725 51.0 3.7 3000 500\n146 1 51.0 3.7 0 1000\n", (0.5, 1.0), (6000.0, 0.0)),
        ("a.csv", "t_ms,bytes_in_next_100ms\n0,200\n100,0\n", (0.1, 0.1), (2000.0, 0.0)),
        ("a.txt", "8\n\n0.8\n", (1.0, 1.0), (1e6, 1e5)),
    ],
)
def test_formats(tmp_path, name, text, durations, bandwidths):
    path = tmp_path / name
    path.write_text(text)
    trace = read(path)
    assert trace.durations_s == durations
    assert trace.bytes_per_s == pytest.approx(bandwidths)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", "{", "line 1: not valid JSON"),
        ("a.json", "{}", "expected a list of objects"),
        ("a.json", '[{"duration_ms": "x"}]', "entry 1: expected an object with"),
        ("a.json", '[{"duration_ms": 0, "bandwidth_kbps": 1}]', "entry 1: expected an interval above zero"),
        ("a.txt", "1\n2\nx\n", "line 3: expected numbers only"),
        ("a.txt", "1\n-2\n", "line 2: expected a bandwidth of zero or more"),
        ("a.txt", "1\n2 3\n", "line 2: expected 1 numbers, found 2"),
        ("a.txt", "1 2\n", "line 1: expected six columns"),
        ("a.txt", "", "expected at least one line"),
        ("a.txt", "0\n", "at least one bandwidth above zero"),
        ("a.csv", "t_ms,bytes_in_next_100ms\n0\n", "line 2: expected 2 numbers, found 1"),
    ],
)
def test_mistakes_name_file_and_place(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(TraceError, match=r"nowhere\.log: cannot be read"):
        read(tmp_path / "nowhere.log")
    (tmp_path / "binary.log").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="expected a text file"):
        read(tmp_path / "binary.log")


def test_every_measured_log_is_read(traces):
    paths = [*traces.glob("ghent_4g/*.json"), *traces.glob("ghent_4g/*.log"), *traces.glob("lte_uplink/*.*")]
    assert len(paths) == 14
    for path in paths:
        assert 5e5 < read(path).mean_bytes_per_s < 6e6, path


def test_remaining_budgets_are_those_of_the_sponge_paper(traces):
    """Its authors count 1024 bytes a KB from the start of each sample, and cut to milliseconds and at 0."""
    trace = read(traces / "ghent_4g/report_bus_0001.log")
    with (traces / "sponge_paper/slas.csv").open() as lines:
        budgets = {int(size_kb): np.array(row, float) for size_kb, *row in list(csv.reader(lines))[1:]}
    assert sorted(budgets) == [100, 200, 500]
    start_s = np.cumsum([0.0, *trace.durations_s])
    for size_kb, theirs in budgets.items():
        ours = [1 - (trace.finish(t, size_kb * 1024) - t) for t in start_s[: len(theirs)]]
        difference = np.abs(np.maximum(ours, 0) - theirs)
        assert np.mean(difference <= 1.1e-3) > 0.98  # their bandwidths are rounded
        assert difference.max() < 3e-3


def statistics(trace: BandwidthTrace) -> dict[str, float]:
    x = np.array(trace.bytes_per_s) / 1e6
    low, median, high = np.quantile(x, [0.05, 0.5, 0.95])
    return {
        "mean": x.mean(),
        "low": low,
        "median": median,
        "high": high,
        "variation": x.std() / x.mean(),
        "lag 1": np.corrcoef(x[:-1], x[1:])[0, 1],
        "lag 5": np.corrcoef(x[:-5], x[5:])[0, 1],
        "near zero": np.mean(x < 0.05),
    }


def test_the_synthetic_link_resembles_the_measured_ones(traces):
    logs = [statistics(read(path)) for path in Path(traces, "ghent_4g").glob("*.json")]
    made = [statistics(synthetic(seed, 600)) for seed in range(20)]
    band = {
        "mean": 0.5,
        "low": 0.4,
        "median": 0.5,
        "high": 0.8,
        "variation": 0.1,
        "lag 1": 0.1,
        "lag 5": 0.12,
        "near zero": 0.02,
    }
    for name, width in band.items():
        measured = np.mean([log[name] for log in logs])
        assert np.mean([one[name] for one in made]) == pytest.approx(measured, abs=width), name


def test_the_synthetic_link_follows_its_seed():
    assert synthetic(1, 60) == synthetic(1, 60)
    assert synthetic(1, 60) != synthetic(2, 60)
    assert synthetic(1, 60).length_s == 60


@given(links, starts)
def test_the_next_change_is_where_the_rate_becomes_another(trace, now_s):
    change_s = trace.next_change(now_s)
    if math.isinf(change_s):
        assert len(set(trace.bytes_per_s)) == 1
    else:
        assert now_s < change_s <= now_s + trace.length_s
        assert trace.rate(change_s) != trace.rate(now_s)
        # Until then what is carried is that rate times the time.
        carried = trace.rate(now_s) * (change_s - now_s)
        assert trace.delivered(now_s, change_s) == pytest.approx(carried, rel=1e-6, abs=1)
