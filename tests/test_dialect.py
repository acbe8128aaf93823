"""Our messages are Triton's, as far as they go: names, numbers, types."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from protos import inference_pb2
from tests import descriptors

OURS = descriptors.of_file(inference_pb2.DESCRIPTOR)


@pytest.fixture(scope="module")
def tritons():
    script = Path(__file__).with_name("triton_descriptors.py")
    ran = subprocess.run([sys.executable, script], check=True, capture_output=True, timeout=60)
    return json.loads(ran.stdout)


@pytest.mark.parametrize("name", OURS)
def test_every_part_of_ours_is_tritons(tritons, name):
    parts = OURS[name]
    assert {part: tritons[name].get(part) for part in parts} == parts


def test_every_call_of_the_core_and_its_extensions_is_there():
    assert len(OURS["inference.GRPCInferenceService"]) == 12


def test_one_datatype_after_the_other(tritons):
    assert OURS["inference.DataType"] == tritons["inference.DataType"]
