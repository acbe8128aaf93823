"""Quotas that cover others."""

import pytest

from controlplane.allocation import Quota, largest, smallest


@pytest.mark.parametrize(
    ("quotas", "most", "least"),
    [
        ([Quota(500, 100), Quota(1000, 50)], Quota(1000, 100), Quota(500, 50)),
        ([Quota(None, 0), Quota(1000, 50)], Quota(None, 0), Quota(1000, 50)),
        ([Quota(None, 0)], Quota(None, 0), Quota(None, 0)),
    ],
)
def test_largest_and_smallest(quotas, most, least):
    assert (largest(quotas), smallest(quotas)) == (most, least)
    assert most.covers(least)
