"""The best fixed split, and that workers take what it gives."""

from pathlib import Path

import numpy as np
import pytest

from controlplane.demand import DemandEstimate
from controlplane.latency import LatencyModel
from controlplane.planner import ServiceState
from dataplane import config
from evaluation import demo, scenario, split
from evaluation.bandwidth import BandwidthTrace
from evaluation.fleet import worker_toml
from evaluation.load import Payload
from evaluation.scenario import Subject

FAST = BandwidthTrace.constant(1e8)


def subject(name, slo_ms, row_cpu_s, size):
    return Subject(name, Path(f"/{name}.onnx"), slo_ms, [Payload(bytes(size), np.zeros(1))], row_cpu_s)


SUBJECTS = (subject("vision", 1000.0, 0.07, 300_000), subject("magika", 150.0, 0.006, 8_300))


def split_of(cpus):
    offer = scenario.offer(SUBJECTS, cpus, 300)
    peak = {name: 2 * rate for name, rate in offer.rates.items()}
    return offer.host_millicores, split.best(SUBJECTS, peak, FAST, offer.host_millicores)


@pytest.mark.parametrize("cpus", [2, 4, 32, 64, 128])
def test_a_worker_of_any_host_takes_what_the_split_gives_it(cpus, tmp_path):
    host_millicores, configurations = split_of(cpus)
    for each in SUBJECTS:
        configuration = configurations[each.name]
        spec = demo.worker_spec(each, configuration, host_millicores)
        path = tmp_path / "worker.toml"
        path.write_text(worker_toml(spec, spec.model, "127.0.0.1:1", "127.0.0.1:2"))
        engine = config.read(path, {}).engine
        assert (engine.instances, engine.threads, engine.batch) == (
            configuration.instances,
            configuration.threads,
            configuration.max_batch,
        )
        assert (engine.max_instances, engine.max_threads) == (
            spec.limits.max_instances,
            spec.limits.max_threads,
        )


@pytest.mark.parametrize("cpus", [2, 4, 64])
def test_the_whole_host_is_in_use_with_as_many_threads_as_quota(cpus):
    host_millicores, configurations = split_of(cpus)
    used = sum(c.cpu_millicores for c in configurations.values())
    assert host_millicores - 100 * len(SUBJECTS) < used <= host_millicores
    for configuration in configurations.values():
        runnable = configuration.instances * configuration.threads
        assert 1000 * (runnable - 1) < configuration.cpu_millicores


def state(rate, row_s=0.05, slo_s=1.0, cpus=4):
    model = LatencyModel()
    for _ in range(16):
        model.record(1, 1, row_s, 1.0, 0.0)
    demand = DemandEstimate(rate, 0.0, 1.0, ((slo_s, 1.0),), 1.0)
    return ServiceState("vision", model, demand, split.limits(300, 1000 * cpus))


@pytest.mark.parametrize(
    ("millicores", "instances"), [(700, 1), (1000, 1), (2000, 2), (2100, 2), (3100, 3), (4000, 4)]
)
def test_a_quota_is_used_by_as_many_executions_as_it_has_cores_for(millicores, instances):
    shaped = split.shaped(state(rate=14 * millicores / 1000), millicores)
    assert (shaped.cpu_millicores, shaped.instances, shaped.threads) == (millicores, instances, 1)


def test_a_shape_is_as_good_as_any_other_with_the_same_quota():
    """Two threads serve what one cannot in time: 0.3 s of work and 0.25 s to do it in."""
    shaped = split.shaped(state(rate=1.0, row_s=0.3, slo_s=0.25), 2100)
    assert (shaped.instances, shaped.threads) == (1, 2)
