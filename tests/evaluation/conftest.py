"""Where measured traces may lie: beside the repository, or where SPONGE_TRACES says."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def traces() -> Path:
    """Give the folder of measured traces; without it the test is skipped."""
    default = Path(__file__).parents[2] / "../shared/traces"
    folder = Path(os.environ.get("SPONGE_TRACES", default))
    if not folder.is_dir():
        pytest.skip(f"no measured traces at {folder}; SPONGE_TRACES may name another folder")
    return folder
