"""`sponge demo` and `sponge traffic` as people run them."""

from sponge.__main__ import main


def test_traffic_without_a_control_plane_ends_in_one_line_before_anything_is_prepared(tmp_path, capsys):
    models = tmp_path / "models"
    assert main(["traffic", "--control", "127.0.0.1:1", "--models", str(models)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("sponge: control plane at 127.0.0.1:1: UNAVAILABLE: ")
    assert not models.exists()
