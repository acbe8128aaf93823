"""Models that are made once, and where measured traces may lie: beside the repository, or where SPONGE_TRACES says."""

import os
from pathlib import Path

import pytest

from evaluation import scenario
from evaluation.models import Vision


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the demo's models, and the small one of a bench."""
    folder = tmp_path_factory.mktemp("models")
    for vision in Vision:
        scenario.build_models(folder, vision)
    return folder


@pytest.fixture(scope="session")
def traces() -> Path:
    """Give the folder of measured traces; without it the test is skipped."""
    default = Path(__file__).parents[2] / "../shared/traces"
    folder = Path(os.environ.get("SPONGE_TRACES", default))
    if not folder.is_dir():
        pytest.skip(f"no measured traces at {folder}; SPONGE_TRACES may name another folder")
    return folder
