"""The simulator beside real runs, as a finding."""

from dataclasses import replace

import pytest
from msgspec import structs

from evaluation.experiment import kinds, trust
from evaluation.experiment.finding import Finding
from evaluation.simulation import replay
from tests.evaluation.recordings import executed, recording, served

AT_S = [0.5 + 0.25 * i for i in range(40)]
STEADY = recording([served(at, 0.05) for at in AT_S], [executed(at, 0.05) for at in AT_S], seconds=11.0)
SETTINGS = trust.Settings(
    kind="trust", title="t", question="q", service="vision", seconds=10.0, seeds=[1], replays=3
)


def test_a_finding_has_a_table_for_each_recording_and_both_goals(tmp_path):
    found = trust.compare(SETTINGS, [STEADY, STEADY], tmp_path, "sponge experiment trust")
    assert [table.title for table in found.tables] == ["Recording 1", "Recording 2"]
    for table in found.tables:
        for _, measured, mean, least, most in table.rows:
            assert isinstance(measured, float)
            assert least - 1e-9 <= mean <= most + 1e-9
    assert len(found.goals) == 2
    assert Finding.read(found.write(tmp_path)) == found
    assert (tmp_path / found.plots[0].file).read_bytes().startswith(b"\x89PNG")


def test_goals_are_about_the_mean_of_the_replays_and_every_recording():
    real = replace(replay.measured(STEADY), mean_cores=1.0, late=0.02, refused=0.01)

    def met(*replays):
        return [goal.met for goal in trust.goals([(real, [real]), (real, list(replays))])]

    assert met(replace(real, mean_cores=1.2), replace(real, mean_cores=0.9)) == [True, True]
    assert met(replace(real, mean_cores=1.11)) == [False, True]
    assert met(replace(real, late=0.035)) == [True, False]
    assert met(replace(real, late=0.0, refused=0.03)) == [True, True]


def test_no_claim_is_made_of_a_busy_host(tmp_path):
    busy = structs.replace(STEADY, host_busy_share=0.97)
    found = trust.compare(SETTINGS, [STEADY, busy], tmp_path, "")
    assert any("in recording 2: no claim" in note for note in found.notes)
    assert [len(goal.measured.split(", ")) for goal in found.goals] == [1, 1]
    assert trust.compare(SETTINGS, [busy], tmp_path, "").goals == []
    assert all("recording 1" not in note for note in found.notes)


def test_it_is_shipped_and_can_be_run_by_name():
    path = kinds.find("trust")
    assert kinds.read(path).kind == "trust"
    assert kinds.run_of("trust") is trust.run
    assert trust.load(path, trust.Settings).replays >= 5


def test_unknown_services_are_named(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(kinds.find("trust").read_text().replace('"vision"', '"audio"'))
    with pytest.raises(trust.ConfigError, match="service"):
        trust.load(path, trust.Settings)
