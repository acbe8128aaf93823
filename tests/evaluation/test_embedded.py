"""What stands in the way of a whole Sponge on this machine is told in one error."""

import os

import pytest

from core.cgroup import Cgroup, usable_parent
from evaluation.embedded import Embedded, StartError


@pytest.mark.skipif(usable_parent() is None, reason="no control group may be made here")
async def test_a_control_group_that_cannot_be_made_is_a_start_error(tmp_path):
    in_the_way = Cgroup.create(f"sponge-{os.getpid()}", usable_parent())
    try:
        with pytest.raises(StartError, match=f"sponge-{os.getpid()}: cannot be made"):
            async with Embedded(tmp_path, [], 1000):
                pass
    finally:
        in_the_way.remove()
