"""What a bench offers."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.bandwidth import BandwidthTrace
from evaluation.bench import workload
from evaluation.bench.policy import PolicyError, parse
from evaluation.load import Payload
from evaluation.scenario import Subject
from evaluation.simulation.offered import RatesError
from evaluation.workload import Phase

FAST = BandwidthTrace.constant(1e8)
SUBJECTS = tuple(
    Subject(name, Path(f"/{name}.onnx"), slo_ms, [Payload(bytes(size), np.zeros(1))], row_s, 300)
    for name, slo_ms, row_s, size in (("vision", 1000.0, 0.012, 300_000), ("magika", 150.0, 0.006, 8_300))
)
RATES = {"vision": 20.0, "magika": 20.0}


def mean(phases):
    return sum(p.duration_s * p.factor for p in phases) / sum(p.duration_s for p in phases)


def made(phases, **more):
    return workload.make(SUBJECTS, RATES, 1500, phases, FAST, 1, **more)


def test_a_file_of_rates_is_scaled_to_the_mean_and_starts_again_at_its_end(tmp_path):
    path = tmp_path / "rates.txt"
    path.write_text("1 2 6")
    phases = workload.pattern(str(path), 5.0)
    assert mean(phases) == pytest.approx(1.0)
    assert [phase.factor / phases[0].factor for phase in phases] == pytest.approx([1, 2, 6, 1, 2])
    assert mean(workload.pattern("day", 60.0)) == pytest.approx(1.0)


def test_rates_of_zero_are_refused(tmp_path):
    path = tmp_path / "rates.txt"
    path.write_text("0 0 5")
    with pytest.raises(RatesError, match="first 2 s"):
        workload.pattern(str(path), 2.0)


def test_a_pattern_can_begin_later_in_itself():
    phases = (Phase(4.0, 1.0), Phase(4.0, 2.0), Phase(2.0, 0.5))
    assert workload.later(phases, 0.5) == (
        Phase(3.0, 2.0),
        Phase(2.0, 0.5),
        Phase(4.0, 1.0),
        Phase(1.0, 2.0),
    )
    assert workload.later(phases, 0.0) == phases


def test_staggered_services_have_their_peaks_apart_and_all_else_alike():
    peak = (Phase(10.0, 4.0), Phase(10.0, 0.1))
    together, apart = made(peak), made(peak, stagger=True)
    assert together.peak_rates == apart.peak_rates == {"vision": 80.0, "magika": 80.0}

    def early(of, service):
        times = [a.at_s for a in of.offered.schedule if a.service == service]
        return sum(at_s < 10 for at_s in times) / len(times)

    assert early(together, "magika") > 0.9
    assert early(apart, "vision") > 0.9
    assert early(apart, "magika") < 0.1


def test_the_warm_up_is_at_the_mean_rate_and_comes_first():
    found = made((Phase(10.0, 1.0),), warmup_s=100.0)
    assert found.offered.seconds == 110.0
    warm = sum(arrival.at_s < 100 for arrival in found.offered.schedule)
    assert warm == pytest.approx(4000, rel=0.1)


def test_fixed_splits_have_their_part_and_others_begin_small():
    here = made((Phase(10.0, 1.0),))

    def total(name):
        return sum(each.cpu_millicores for each in here.start(parse(name)).values())

    assert 1300 <= total("static:MAX") <= 1500
    assert 700 <= total("static:60%") <= 900
    stated = here.start(parse("static:400,900"))
    assert [stated[name].cpu_millicores for name in RATES] == [400, 900]
    assert total("sponge") == total("paper") == 1400
    with pytest.raises(PolicyError):
        here.start(parse("static:1600"))
