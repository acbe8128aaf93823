"""A model's own profile: measured by the engine's rules, written, and read by the simulator."""

import argparse
import csv
import threading

import pytest

from controlplane import profilefile
from core.cgroup import usable_parent
from dataplane.engine import Engine, ModelError
from dataplane.warmup import Warmup
from evaluation import profiling, slices
from evaluation.simulation import profile as simulated
from evaluation.slices import Setting
from sponge import profile
from sponge.__main__ import main
from tests import models


def measure(path, threads=(1, 2), batches=(1, 2, 4), seconds=0.05, shapes=None):
    told = []
    grid = profiling.Grid(threads, batches)
    found = profiling.measure(path, grid, seconds, shapes or {}, lambda *progress: told.append(progress))
    return found, told


def test_every_cell_is_measured_and_its_quantiles_are_in_order(tmp_path):
    found, told = measure(models.slow(tmp_path / "slow.onnx", work=4))
    assert [(cell.rows, cell.threads) for cell in found.cells] == [
        (1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2),
    ]  # fmt: skip
    for cell in found.cells:
        assert cell.count >= 5
        assert 0 < cell.p50_ms <= cell.p95_ms <= cell.p99_ms
        assert cell.mean_ms <= cell.p99_ms
    assert told
    assert all(0 <= done <= total for done, total in told)


def test_the_simulator_reads_what_was_written(tmp_path):
    found, _ = measure(models.scale(tmp_path / "scale.onnx"))
    found.write(tmp_path / "scale.csv")
    points = simulated.read(tmp_path / "scale.csv")
    assert [(point.batch, point.cores) for point in points] == [(c.rows, c.threads) for c in found.cells]
    assert [point.latency_ms for point in points] == pytest.approx(
        [cell.p99_ms for cell in found.cells], abs=1e-4
    )
    whole = profilefile.read_times(tmp_path / "scale.csv")
    for cell in found.cells:
        times = whole[cell.rows, cell.threads]
        assert (1000 * times.mean_s, 1000 * times.p50_s) == pytest.approx(
            (cell.mean_ms, cell.p50_ms), abs=1e-4
        )
        assert (1000 * times.p95_s, 1000 * times.p99_s) == pytest.approx((cell.p95_ms, cell.p99_ms), abs=1e-4)


def test_the_file_says_what_was_measured_on_what(tmp_path):
    found, _ = measure(models.scale(tmp_path / "scale.onnx"), threads=[1], batches=[1])
    found.write(tmp_path / "scale.csv")
    lines = (tmp_path / "scale.csv").read_text().splitlines()
    about = [line for line in lines if line.startswith("# ")]
    assert about[0].startswith("# model: scale.onnx, SHA-256 ")
    assert {line.split(":")[0] for line in about} >= {"# measured", "# machine", "# versions"}
    (row,) = csv.DictReader(line for line in lines if not line.startswith("#"))
    assert list(row) == [
        "rows", "threads", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "count",
        "instances", "millicores", "throttled_share", "throttled_ms",
    ]  # fmt: skip
    assert profilefile.read(tmp_path / "scale.csv").digest == about[0].rpartition(" ")[2]


def test_a_model_without_a_batch_dimension_has_batch_one(tmp_path):
    found, _ = measure(models.fixed(tmp_path / "fixed.onnx"), threads=[1])
    assert [cell.rows for cell in found.cells] == [1]


def test_sizes_that_the_file_leaves_open_are_asked_for(tmp_path):
    path = models.sum_image(tmp_path / "sum.onnx")
    with pytest.raises(ModelError, match=r"sum\.onnx: image: expected the sizes of one row"):
        measure(path)
    found, _ = measure(path, shapes={"image": (8, 8, 3)}, threads=[1], batches=[1])
    assert len(found.cells) == 1


def test_the_command_writes_a_profile_and_prints_it(tmp_path, capsys):
    path, output = models.sum_image(tmp_path / "sum.onnx"), tmp_path / "out.csv"
    flags = ["--shape", "image=8,8,3", "--threads", "1", "--batches", "2", "--seconds", "0.05"]
    assert main(["profile", str(path), *flags, "--output", str(output)]) == 0
    assert {(point.batch, point.cores) for point in simulated.read(output)} == {(1, 1), (2, 1)}
    printed = capsys.readouterr().out
    assert "p99 ms" in printed
    assert str(output) in printed
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("none.onnx", None, "none.onnx: cannot be read: No such file or directory"),
        ("text.onnx", b"hello", "text.onnx: not a model ONNX Runtime can load"),
    ],
)
def test_what_cannot_be_measured_is_one_line(name, content, text, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["profile", str(tmp_path / name), "--output", str(tmp_path / "out.csv")]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_open_sizes_name_the_flag_and_a_folder_that_is_not_there_is_one_line(tmp_path, capsys):
    path = models.sum_image(tmp_path / "sum.onnx")
    assert main(["profile", str(path)]) == 2
    assert "--shape INPUT=SIZES" in capsys.readouterr().err
    scale = models.scale(tmp_path / "scale.onnx")
    flags = ["--threads", "1", "--batches", "1", "--seconds", "0.01"]
    assert main(["profile", str(scale), *flags, "--output", str(tmp_path / "no" / "out.csv")]) == 2
    assert "--output: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--threads", "0"),
        ("--batches", "1,x"),
        ("--seconds", "0"),
        ("--shape", "image"),
        ("--shape", "image=0"),
        ("--instances", "0"),
        ("--quotas", "20"),
        ("--quotas", "0.5"),
    ],
)
def test_flags_are_checked(flag, value, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["profile", str(tmp_path / "any.onnx"), flag, value])
    assert flag in capsys.readouterr().err


QUOTAS = pytest.mark.skipif(usable_parent() is None, reason="no control group may be made here")


def test_what_never_pays_is_not_measured():
    grid = profiling.Grid([1, 2], [1], [1, 2], [500, 1500])
    assert grid.settings(batched=True) == [
        Setting(1, 1), Setting(1, 2), Setting(1, 1, 2), Setting(1, 2, 2),
        Setting(1, 1, 1, 500),
        Setting(1, 1, 1, 1500), Setting(1, 2, 1, 1500), Setting(1, 1, 2, 1500),
    ]  # fmt: skip


class Meeting:
    """An engine on which each execution waits until so many have begun."""

    def __init__(self, engine, executions):
        self._engine = engine
        self._all_run = threading.Barrier(executions, timeout=30)

    def run(self, threads, batch):
        self._all_run.wait()  # broken, and the test failed, if one of them waits for another's end
        return self._engine.run(threads, batch)


def test_instances_run_beside_each_other(tmp_path):
    engine = Engine(models.slow(tmp_path / "slow.onnx", work=4), "slow", "1", {})
    warmup = Warmup(engine.signature.inputs, {})
    assert len(slices.Here(engine, warmup).run(Setting(1, 1, 1), 0.0, 0.0).walls_s) == 1
    assert len(slices.Here(Meeting(engine, 3), warmup).timed(Setting(1, 1, 3), 0.0, 0.0)) == 3


@QUOTAS
def test_a_quota_is_seen_in_the_file_and_hidden_from_those_who_want_none(tmp_path, capsys):
    path, output = models.slow(tmp_path / "slow.onnx", work=4), tmp_path / "out.csv"
    flags = ["--threads", "1", "--batches", "1", "--instances", "2", "--quotas", "100", "--seconds", "0.05"]
    assert (
        main(["profile", str(path), *flags, "--output", str(output), "--plot", str(tmp_path / "p.png")]) == 0
    )
    rows = list(csv.DictReader(line for line in output.read_text().splitlines() if not line.startswith("#")))
    assert [(row["instances"], row["millicores"]) for row in rows] == [("1", "0"), ("2", "0"), ("1", "100")]
    assert [float(row["throttled_share"]) > 0 for row in rows] == [False, False, True]
    assert [float(row["throttled_ms"]) > 0 for row in rows] == [False, False, True]
    assert {(point.batch, point.cores) for point in simulated.read(output)} == {(1, 1)}
    assert set(profilefile.read(output).times) == {1, 2}
    assert (tmp_path / "p.png").exists()
    assert "throttled" in capsys.readouterr().out


@QUOTAS
def test_a_child_says_what_is_wrong_and_leaves_no_group_behind(tmp_path, capsys):
    parent = usable_parent()
    assert parent is not None
    before = {path.name for path in parent.cpu.iterdir()}
    assert main(["profile", str(tmp_path / "none.onnx"), "--quotas", "500"]) == 2
    error = capsys.readouterr().err
    assert "none.onnx: cannot be read" in error
    assert error.count("\n") == 1
    assert {path.name for path in parent.cpu.iterdir()} <= before


def test_quotas_where_no_group_may_be_made_are_one_line_that_says_what_it_takes(tmp_path, capsys):
    outside = tmp_path / "proc/self"
    outside.mkdir(parents=True)
    (outside / "cgroup").write_text("0::/elsewhere\n")
    (outside / "mountinfo").write_text("25 24 0:23 /here /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    scale, output = models.scale(tmp_path / "scale.onnx"), tmp_path / "out.csv"
    parser = argparse.ArgumentParser()
    profile.add_arguments(parser)
    parsed = parser.parse_args([str(scale), "--quotas", "500", "--output", str(output)])
    assert profile.run(parsed, tmp_path) == 2
    error = capsys.readouterr().err
    assert "--quotas: " in error
    assert "run it as root" in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_a_picture_of_no_kind_is_one_line(tmp_path, capsys):
    flags = ["--threads", "1", "--batches", "1", "--seconds", "0.01", "--output", str(tmp_path / "out.csv")]
    scale = models.scale(tmp_path / "scale.onnx")
    assert main(["profile", str(scale), *flags, "--plot", str(tmp_path / "p.doc")]) == 2
    assert "--plot: " in capsys.readouterr().err
