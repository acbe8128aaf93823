from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.serving.peers import LITSERVE, PEERS, PYTRITON, Missing


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_pinned_and_has_something_that_serves(name):
    peer = PEERS[name]
    lines = peer.requirements.splitlines()
    assert all(line.count("==") == 1 for line in lines)
    # It gets the one that serves here, so that only the servers differ.
    assert not any(line.startswith("onnxruntime") for line in lines)
    python, server, task, *_ = peer.recipe(Path("somewhere")).command(Path("task.json"))
    assert python.endswith(f"somewhere/{peer.folder}/bin/python")
    assert task == "task.json"
    compile(Path(server).read_text(), server, "exec")
    assert peer.version in peer.recipe().title


def test_nobody_claims_tritons_own_backend():
    assert "Python backend" in PEERS[PYTRITON].recipe().title


def test_a_peer_without_its_python_is_missing(tmp_path):
    peer = replace(PEERS[PYTRITON], python=tmp_path / "python3.11")
    with pytest.raises(Missing, match=f"pytriton: needs {tmp_path}/python3.11, which is not there"):
        peer.install(tmp_path)


def test_a_peer_that_cannot_be_installed_is_missing_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(Missing, match=r"litserve: -m pip: ERROR: No matching distribution found for"):
        PEERS[LITSERVE].install(tmp_path)
    assert not (tmp_path / "litserve" / "installed").exists()
