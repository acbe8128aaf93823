"""Three minutes of the demo's services, warming up included: nothing grows that should not."""

from pathlib import Path

import pytest

from core.cgroup import usable_parent
from evaluation.faults.soak import soak

# The inputs are made and the planes started in what is left of three minutes.
SECONDS = 160.0


@pytest.mark.skipif(usable_parent() is None, reason="no control group may be made here")
@pytest.mark.timeout(600)
async def test_nothing_grows(tmp_path: Path) -> None:
    assert (await soak(tmp_path, SECONDS)).broken == []
