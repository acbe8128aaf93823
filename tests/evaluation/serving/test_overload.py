"""The overload experiment at its smallest: whether it works, not how fast anything is."""

import os

import pytest

from core.cgroup import usable_parent
from core.config import ConfigError, load
from evaluation.experiment import kinds
from evaluation.experiment.kinds import Options
from evaluation.serving import overload
from evaluation.serving.peers import MLSERVER_BATCHING, PEERS
from evaluation.serving.sample import Sample

TOML = """
kind = "overload"
title = "t"
question = "q"
model = "mlp"
deadline_ms = 500.0
sweep = [0.05, 0.1]
factors = [0.5, 2.0]
seconds = 1.0
lead_s = 0.2
rounds = 1
peers = []
"""


def options(seconds=None):
    return Options("command", None, 1, seconds, lambda _: None)


def sample(in_time, offered, lag_s=0.0):
    return Sample(
        seconds=2.0,
        offered=offered,
        latencies_s=(0.01,) * in_time,
        in_time=in_time,
        wrong=0,
        unanswered=offered - in_time,
        cpu_s=1.0,
        client_cpu_s=0.1,
        lag_s=lag_s,
    )


@pytest.mark.skipif(
    usable_parent() is None or len(os.sched_getaffinity(0)) < 2,
    reason="needs two CPUs, and a control group may be made",
)
def test_what_is_offered_is_answered_and_told(tmp_path):
    toml = tmp_path / "overload.toml"
    toml.write_text(TOML)
    finding = overload.run(toml, tmp_path, options(seconds=0.5))
    (table,) = finding.tables
    assert [row[:2] for row in table.rows] == [["Sponge", 0.5], ["Sponge", 2.0]]
    assert all(in_time > 0 for _, _, _, in_time, *_ in table.rows)
    assert [goal.goal[:20] for goal in finding.goals] == ["at 2 × the capacity "]
    assert (tmp_path / finding.plots[0].file).exists()


def test_goodput_is_judged_by_the_capacity_of_the_same_rounds():
    offers = overload.Offers(
        [sample(90, 100), sample(110, 120)],
        {
            ("sponge", 2.0): [sample(80, 200), sample(100, 200)],
            ("sponge", 10.0): [sample(100, 1000, lag_s=0.2)],
        },
    )
    assert offers.capacity == 50
    assert overload._goal(offers, 2.0).measured == "90.0%"
    assert not overload._goal(offers, 2.0).met
    assert overload._goal(offers, 10.0).met
    assert overload._notes(offers) == [
        "The client was late at 10 × the capacity: this machine could not offer as much."
    ]


def test_an_unknown_peer_is_told(tmp_path):
    toml = tmp_path / "overload.toml"
    toml.write_text(TOML.replace("peers = []", 'peers = ["nobody"]'))
    with pytest.raises(ConfigError, match=r"peers: expected some of mlserver, .*, got nobody"):
        overload.run(toml, tmp_path, options())


def test_the_shipped_experiment_can_be_read():
    settings = load(kinds.shipped()["overload"], overload.Settings)
    # Batches gain nothing with its model.
    assert {*settings.peers, MLSERVER_BATCHING} == set(PEERS)
    assert max(settings.factors) == 10
