"""Profiles as what the control plane begins with."""

import re
from pathlib import Path

import pytest

from controlplane import controlfile
from controlplane.cell import HALF_LIFE_S, SAMPLES, Cell
from controlplane.config import ServicePolicy
from controlplane.latency import LatencyModel
from controlplane.prior import Priors
from controlplane.profiled import Times
from controlplane.profilefile import Profile
from core.config import ConfigError

DIGEST = "ab" * 32
HEADER = "rows,threads,mean_ms,p50_ms,p95_ms,p99_ms,count,instances,millicores,throttled_share,throttled_ms"
LINES = (
    "1,1,10.0,10.0,11.0,12.0,100,1,0,0.0,0.0",
    "4,1,36.0,36.0,39.0,40.0,100,1,0,0.0,0.0",
    "1,1,12.0,12.0,13.2,14.4,100,2,0,0.0,0.0",
    "1,1,20.5,20.0,21.0,30.0,100,1,500,0.9,700.0",
)


def write(folder: Path, *lines: str, about: str = f"# model: vision.onnx, SHA-256 {DIGEST}") -> Path:
    (folder / "vision.csv").write_text("\n".join((about, *lines)) + "\n")
    control = folder / "control.toml"
    control.write_text('[services.vision]\nprofile = "vision.csv"\n')
    return control


def read(control: Path) -> Priors:
    return Priors.read(control, controlfile.read(control, {}).services)


def test_the_model_begins_with_what_was_profiled_without_a_quota(tmp_path):
    model = LatencyModel(cells=read(write(tmp_path, HEADER, *LINES)).cells("vision", DIGEST, 1000.0))
    assert model.trust(1, 1) == model.trust(4, 1) == 1.0
    assert model.mean(4, 1) == pytest.approx(0.036, rel=0.02)
    assert model.upper(4, 1) == pytest.approx(0.039, rel=0.02)
    assert 0.04 < model.kappa < 0.2  # of two beside each other, drawn towards what is assumed of all models
    assert model.mean(1, 1) == pytest.approx(0.010, rel=0.08)


def test_live_executions_take_over(tmp_path):
    model = LatencyModel(cells=read(write(tmp_path, HEADER, *LINES)).cells("vision", DIGEST, 1000.0))
    before = model.mean(4, 1)
    means = []
    for execution in range(60):
        model.record(4, 1, 0.072, 1.0, 1000.0 + execution)
        means.append(model.mean(4, 1))
    assert means[0] < 1.2 * before  # one says little
    assert means[-1] > 0.9 * 0.072  # against sixty


def test_an_older_file_has_no_more_than_single_executions(tmp_path):
    header, *lines = (",".join(line.split(",")[:7]) for line in (HEADER, *LINES[:2]))
    cells = read(write(tmp_path, header, *lines)).cells("vision", DIGEST, 0.0)
    assert set(cells) == {(1, 1), (4, 1)}
    assert {*cells[1, 1].busy} == {1.0}


def test_a_profile_of_another_model_is_named_once_and_ignored(tmp_path, capsys):
    priors = read(write(tmp_path, HEADER, *LINES))
    for _ in range(2):
        assert priors.cells("vision", "cd" * 32, 0.0) == {}
    assert priors.cells("audio", DIGEST, 0.0) == {}
    assert capsys.readouterr().out.count("profile of another model") == 1


def test_what_was_told_of_other_models_is_remembered_of_the_last_alone(tmp_path, capsys):
    priors = read(write(tmp_path, HEADER, *LINES))
    for _ in range(2):
        for digest in ("cd" * 32, "ef" * 32, "ef" * 32):
            assert priors.cells("vision", digest, 0.0) == {}
    assert capsys.readouterr().out.count("profile of another model") == 4


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (
            (HEADER, "0" + LINES[0][1:]),
            "vision.csv: line 3: rows: expected a whole number from 1 on, got '0'",
        ),
        (
            (HEADER, LINES[0].replace("10.0", "x", 1)),
            "vision.csv: line 3: mean_ms: expected a number above 0",
        ),
        ((HEADER, LINES[0].replace(",1,0,", ",none,0,")), "vision.csv: line 3: instances: expected a whole"),
        ((HEADER, LINES[0].replace(",1,0,", ",1,-5,")), "vision.csv: line 3: millicores: expected a whole"),
        ((HEADER, LINES[3]), "vision.csv: expected cells of 1 instance without a quota"),
        (("rows,threads",), "vision.csv: expected the columns rows, threads, mean_ms"),
    ],
)
def test_a_bad_file_is_named_with_key_line_and_field(lines, text, tmp_path):
    with pytest.raises(ConfigError, match=rf"control\.toml: services\.vision\.profile: .*{re.escape(text)}"):
        read(write(tmp_path, *lines))


def test_a_file_that_is_not_there_or_tells_no_model_is_refused(tmp_path):
    control = write(tmp_path, HEADER, *LINES, about="# measured: today")
    with pytest.raises(ConfigError, match=r"services\.vision\.profile: .*expected the model's SHA-256"):
        read(control)
    (tmp_path / "vision.csv").unlink()
    with pytest.raises(ConfigError, match=r"vision\.csv: cannot be read: No such file"):
        read(control)


def test_without_profiles_there_are_no_priors(tmp_path):
    assert (
        Priors.read(tmp_path / "control.toml", {"vision": ServicePolicy()}).cells("vision", DIGEST, 0.0) == {}
    )


def remembered(at: float) -> dict[tuple[int, int], Cell]:
    cell = Cell()
    for _ in range(20):
        cell.record(0.050, 1.0, at)
    return {(1, 1): cell}


def test_what_is_remembered_goes_before_the_profile_which_tells_the_rest(tmp_path):
    priors = read(write(tmp_path, HEADER, *LINES))
    cells = priors.beneath(remembered(900.0), "vision", DIGEST, 1000.0)
    assert set(cells) == {(1, 1), (4, 1)}
    assert {*cells[1, 1].work} == {0.050}
    assert {*cells[4, 1].at} == {900.0 - HALF_LIFE_S}


def test_what_is_all_but_forgotten_gives_way_to_a_profile_and_to_nothing_else(tmp_path):
    priors = read(write(tmp_path, HEADER, *LINES))
    now = 11 * HALF_LIFE_S
    cells = priors.beneath(remembered(0.0), "vision", DIGEST, now)
    assert max(cells[1, 1].work) < 0.050
    assert {*cells[1, 1].at} == {now - HALF_LIFE_S}
    assert priors.beneath(remembered(0.0), "audio", DIGEST, now) == remembered(0.0)
    assert priors.beneath({}, "vision", DIGEST, now) == cells
    assert priors.beneath({}, "audio", DIGEST, now) == {}


@pytest.mark.parametrize("most", [2, 8, 40])
def test_however_many_ran_beside_each_other_those_alone_are_known_and_what_neighbours_cost(most):
    kappa = 0.2
    times = {
        instances: {(1, 1): Times(*[0.010 * (1 + kappa * (instances - 1))] * 4)}
        for instances in range(1, most + 1)
    }
    cells = Priors({"vision": Profile(DIGEST, times)}).cells("vision", DIGEST, 1000.0)
    busy = cells[1, 1].busy
    assert len(busy) <= SAMPLES
    assert (busy[0], busy[-1], busy.count(1.0)) == (most, 1.0, 20)
    model = LatencyModel(cells=cells)
    assert model.mean(1, 1) == pytest.approx(0.010, rel=0.15)
    assert model.kappa == pytest.approx(kappa, rel=0.4 if most == 2 else 0.05)
