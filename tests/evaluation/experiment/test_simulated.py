"""Simulated experiments from a file to a finding."""

import json

import pytest

from core.config import ConfigError
from evaluation.experiment import kinds, matrix
from evaluation.experiment.finding import Finding
from sponge.__main__ import main

TEXT = """
kind = "simulation"
title = "Two orders"
question = "Which?"
policies = ["sponge", "one", "static-best", "bound"]
tables = ["policies", "scores", "cases", "tight"]

[scenario]
profile = "profile.csv"
rate = 12
seconds = 20
max_cores = 4
max_batch = 2

[axes]
payload_kb = [100, "100,500"]

[axes.demand]
calm = { arrivals = "constant" }
drift = { arrivals = "drift:4", slo_ms = "350,1000" }

[policy.one]
scenario = { max_instances = 1, order = "fifo", distress = false }
control = { planner = { max_utilisation = 0.7 } }

[[goal]]
goal = "no more cores than allowed"
all = [{ quantity = "cores", at_most = 4 }]
[[goal]]
goal = "fewer than the bound"
all = [{ quantity = "cores", to = "bound", below = 1 }]
each = "demand"

[[plot]]
figure = "policies"
caption = "By policy"
[[plot]]
figure = "cases"
caption = "By case"
[[plot]]
figure = "price"
caption = "By price"
[[plot]]
figure = "over-time"
caption = "Over time"
policies = ["sponge", "one"]
"""


@pytest.fixture
def toml(tmp_path, monkeypatch):
    monkeypatch.delenv("SPONGE_TRACES", raising=False)
    lines = [f"{b},{c},{b * (20 + 80 / c)}" for b in (1, 2) for c in (1, 2, 4)]
    (tmp_path / "profile.csv").write_text("\n".join(["rows,threads,p99_ms", *lines]))
    path = tmp_path / "orders.toml"
    path.write_text(TEXT)
    return path


def experiment(toml, output, *more):
    return main(["experiment", str(toml), "--traces", str(toml.parent), "--output", str(output), *more])


def test_an_experiment_leaves_its_finding_and_its_plots(toml, tmp_path, capsys):
    assert experiment(toml, tmp_path / "out", "--jobs", "1") == 0
    found = Finding.read(tmp_path / "out" / "orders.json")
    assert [table.title for table in found.tables][1:] == [
        "Every case", "Mean cores (avoidable misses) by case", "Tight requests on time",
    ]  # fmt: skip
    assert len(found.tables[1].rows) == 4 * 4
    assert [(goal.goal, goal.met) for goal in found.goals] == [
        ("no more cores than allowed", True),
        ("calm: fewer than the bound", False),
        ("drift: fewer than the bound", False),
    ]
    assert len(found.plots) == 3 + 4
    for plot in found.plots:
        assert (tmp_path / "out" / plot.file).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "Two orders" in printed
    assert "fewer than the bound" in printed


def test_it_is_the_same_however_many_processes_there_are(toml, tmp_path, capsys):
    for jobs in ("1", "2"):
        assert experiment(toml, tmp_path / jobs, "--jobs", jobs, "--seconds", "10", "--json") == 0
    one, two = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    for found in (one, two):
        found["settings"].pop("commit", None)  # others may commit meanwhile
    assert one == two
    assert one["settings"]["seconds"] == "10 instead of what is written"
    for plot in one["plots"]:
        assert (tmp_path / "1" / plot["file"]).read_bytes() == (tmp_path / "2" / plot["file"]).read_bytes()


def test_a_variant_has_settings_of_its_own(toml, tmp_path):
    toml.write_text(TEXT.replace('"static-best", ', '"hurried", ') + '[policy.hurried]\nbase = "fa2"\n')
    assert experiment(toml, tmp_path, "--jobs", "1", "--seconds", "10") == 0
    rows = Finding.read(tmp_path / "orders.json").tables[1].rows
    by_policy = {row[2]: row[3:] for row in rows[:4]}
    assert set(by_policy) == {"sponge", "one", "hurried", "bound"}
    assert len(set(map(tuple, by_policy.values()))) == 4


def test_axes_are_combined_the_last_fastest(toml):
    found = matrix.cases(matrix.read(toml), "orders")
    assert [case.name for case in found] == ["100 · calm", "100 · drift", "100,500 · calm", "100,500 · drift"]
    assert [case.description.slo_ms for case in found] == [1000, "350,1000"] * 2


def test_a_first_look_reaches_only_some_outages(toml):
    toml.write_text(TEXT.replace('arrivals = "constant"', 'outage = ["2:1", "12:1"]'))
    calm, *_ = matrix.cases(matrix.read(toml), "orders", seconds=10)
    assert (calm.description.seconds, calm.description.outage) == (10, ("2:1",))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("seconds = 20", "second = 20"), "second"),
        (("rate = 12", 'rate = "12"'), "rate"),
        (('"bound"]', '"best"]'), "policies: policy: expected one of"),
        (('to = "bound"', 'to = "fa2"'), "goal: policy: expected one of sponge, one"),
        (('quantity = "cores", at', 'quantity = "core", at'), "goal: quantity: expected one of cores"),
        (('each = "demand"', 'each = "demands"'), "goal: each: expected one of payload_kb, demand"),
        (('"cases", "tight"]', '"case"]'), "tables: expected one of scores"),
        (('figure = "cases"', 'figure = "case"'), "plot: figure: expected one of policies"),
        (('arrivals = "constant"', 'arrival = "constant"'), "axes: Object contains unknown field `arrival`"),
        (
            ("distress = false", "stress = false"),
            "policy.one.scenario: Object contains unknown field `stress`",
        ),
        (("max_utilisation", "utilisation"), "utilisation"),
        (('"drift:4"', '"drift:x"'), "arrivals: 'drift:x'"),
        (('"drift:4"', '"rates.txt"'), "expected a folder of measured traces that holds rates.txt"),
        (('kind = "simulation"', 'kind = "guess"'), "kind"),
    ],
)
def test_what_the_user_can_mend_is_one_line(toml, tmp_path, capsys, change, expected):
    before, after = change
    assert before in TEXT
    toml.write_text(TEXT.replace(before, after))
    assert experiment(toml, tmp_path, "--jobs", "1", "--seconds", "5") == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("sponge experiment: ")
    assert expected in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_without_traces_one_line_says_what_is_needed(toml, tmp_path, capsys):
    assert main(["experiment", str(toml), "--output", str(tmp_path)]) == 2
    assert "needs a folder of measured traces that holds profile.csv: --traces DIR" in capsys.readouterr().err


def test_those_that_are_shipped_are_listed_and_can_be_read(capsys):
    assert main(["experiment", "--list"]) == 0
    listed = capsys.readouterr().out
    for name, path in kinds.shipped().items():
        assert name in listed
        if kinds.read(path).kind == "simulation":
            described = matrix.read(path)
            found = matrix.cases(described, name)
            names = [case.name for case in found]
            assert len(set(names)) == len(names)
    with pytest.raises(ConfigError, match="nothing-such: expected the path of a TOML file, or one of"):
        kinds.find("nothing-such")
