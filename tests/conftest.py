"""One Hypothesis profile for all tests: none of them judges by the clock. And which may run beside each other."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("sponge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sponge")

# Folders and files of tests that run alone, as do tests marked so themselves: they share this machine's Docker engine,
# or load the machine and look at what becomes of that. Of all others two may run at once: what is to happen in them
# happens however long it takes.
ALONE = (
    "docker",
    "evaluation/bench/test_bench.py",
    "evaluation/endurance/test_endurance.py",
    "evaluation/experiment/test_cfs_period.py",
    "evaluation/experiment/test_residuals.py",
    "evaluation/test_load.py",
    "evaluation/test_measure.py",
    "evaluation/test_netns.py",
    "evaluation/test_profiling.py",
    "test_faults_control.py",
    "test_soak.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs alone, so that `-m 'not alone' --numprocesses 2` leaves it out."""
    alone = [Path(__file__).parent / name for name in ALONE]
    for path in alone:
        if not path.exists():
            raise pytest.UsageError(f"{Path(__file__).name}: ALONE: no such file or folder: {path}")
    for item in items:
        if any(item.path.is_relative_to(path) for path in alone):
            item.add_marker(pytest.mark.alone)
