import hashlib
import tempfile

import pytest

from dataplane.execution import ModelError
from dataplane.modelfile import ModelFile


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    return path


def test_a_copy_is_what_the_file_was(path):
    file = ModelFile(path, keep=True)
    path.write_bytes(b"others")
    assert file.path.read_bytes() == b"weights"
    path.unlink()
    assert file.path.read_bytes() == b"weights"
    assert file.digest == hashlib.sha256(b"weights").hexdigest()
    assert file.intact()
    file.close()


def test_without_a_copy_it_is_the_file_and_says_when_that_has_changed(path):
    file = ModelFile(path, keep=False)
    assert file.path == path
    assert file.intact()
    path.write_bytes(b"others")
    assert not file.intact()
    file.close()


def test_where_no_file_can_be_written_the_copy_is_in_memory(path, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    file = ModelFile(path, keep=True)
    path.unlink()
    assert file.path.read_bytes() == b"weights"
    file.close()


@pytest.mark.parametrize("keep", [True, False])
def test_what_cannot_be_read_is_named_to_the_user_and_not_to_clients(path, keep):
    path.unlink()
    with pytest.raises(ModelError, match=r"model\.onnx: cannot be read: No such file") as caught:
        ModelFile(path, keep=keep)
    assert caught.value.reason == "its file cannot be read"
