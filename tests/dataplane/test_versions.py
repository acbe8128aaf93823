import pytest

from dataplane.execution import ModelError
from dataplane.versions import Version, find, newest


def test_a_file_is_one_version_whether_it_is_there_or_not(tmp_path):
    path = tmp_path / "model.onnx"
    assert find(path, "7") == [Version("7", path)]
    assert newest(path, "7") == Version("7", path)


def test_a_directory_has_those_that_are_numbers_the_newest_first(tmp_path):
    for name in ("2", "10", "1", "03", "0", "-4", "four", "²", "5"):
        (tmp_path / name).mkdir()
        if name != "5":
            (tmp_path / name / "model.onnx").touch()
    (tmp_path / "6").touch()
    assert [version.name for version in find(tmp_path, "")] == ["10", "2", "1"]
    assert newest(tmp_path, "") == Version("10", tmp_path / "10" / "model.onnx")


def test_a_directory_without_any(tmp_path):
    assert find(tmp_path, "") == []
    with pytest.raises(
        ModelError, match=r"expected a version of the model, <number>/model\.onnx, found none"
    ):
        newest(tmp_path, "")
