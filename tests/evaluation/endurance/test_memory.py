"""Levels of memory, and what the kernel says of it."""

import os

import pytest

from evaluation.endurance.memory import Reading, levels, peak_bytes, rss_bytes


def test_levels_are_medians_early_and_late():
    readings = [Reading(requests, 0, mib << 20) for requests, mib in
                [(0, 50), (10, 100), (15, 104), (19, 102), (20, 300), (40, 110), (45, 108), (50, 112)]]  # fmt: skip
    found = levels(readings, after=10)
    assert (found.early_bytes, found.late_bytes, found.most_bytes) == (102 << 20, 110 << 20, 300 << 20)
    assert found.growth == pytest.approx(8 / 102)


def test_without_an_early_reading_there_is_no_level():
    with pytest.raises(ValueError, match="expected readings between 10 and 20 requests"):
        levels([Reading(0, 0, 1), Reading(50, 0, 1)], after=10)


def test_the_kernel_knows():
    assert 1 << 20 < rss_bytes(os.getpid()) <= peak_bytes(os.getpid())


def test_a_process_that_has_ended_has_none():
    with pytest.raises(OSError):  # noqa: PT011 - which of them depends on when it ended
        rss_bytes(2**22 + 1)
