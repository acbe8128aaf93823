"""The command: its lines, determinism, and the numbers of the paper's workload."""

import json

import pytest

from evaluation.simulation import flags
from evaluation.simulation.cli import description
from evaluation.simulation.policies.fa2 import Fa2
from evaluation.simulation.policies.paper import Paper
from evaluation.simulation.run import run
from sponge.__main__ import main

FIELDS = [
    "policy", "requests", "dead_on_arrival", "tight", "tight_on_time", "on_time", "late", "refused",
    "avoidable_missed", "mean_cores", "core_seconds", "resizes", "sim_wall_s",
]  # fmt: skip


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "profile.csv"
    lines = [f"{b},{c},{b * (20 + 80 / c)}" for b in (1, 2) for c in (1, 2, 4)]
    path.write_text("\n".join(["rows,threads,p99_ms", *lines]))
    return str(path)


def simulate(capsys, *arguments):
    """The lines printed, as objects without the wall time."""
    assert main(["simulate", *arguments, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line in lines:
        assert list(line) == FIELDS
        del line["sim_wall_s"]
    return lines


def policies(*names):
    return [word for name in names for word in ("--policy", name)]


def test_every_policy_prints_one_line_that_adds_up(profile, capsys):
    names = [
        "sponge", "paper", "paper-hold", "paper-nt", "fa2", "static:2", "static-best", "usage", "usage-nt",
        "usage-nt:70", "bound",
    ]  # fmt: skip
    common = ("--profile", profile, "--seconds", "20", "--rate", "8", "--max-cores", "4", "--max-batch", "2")
    lines = simulate(capsys, *common, *policies(*names))
    assert [line["policy"] for line in lines] == names
    for line in lines:
        ended = line["dead_on_arrival"] + line["on_time"] + line["late"] + line["refused"]
        assert ended == line["requests"]
        assert line["core_seconds"] == pytest.approx(20 * line["mean_cores"], abs=0.01)


def test_the_same_seed_gives_the_same_numbers(profile, capsys):
    common = ("--profile", profile, "--seconds", "20", "--noise", "0.2", *policies("sponge", "usage-nt"))
    first = simulate(capsys, *common, "--seed", "7")
    assert simulate(capsys, *common, "--seed", "7") == first
    assert simulate(capsys, *common, "--seed", "8") != first


def test_mixes_order_and_several_services(profile, tmp_path, capsys):
    services = tmp_path / "services.toml"
    services.write_text(
        '[[service]]\nname = "a"\nrate = 5\nslo_ms = "350,1000,3000"\n'
        '[[service]]\nname = "b"\npayload_kb = "100:2,500:1"\narrivals = "constant"\nweight = 2\n'
    )
    common = ("--profile", profile, "--seconds", "20", "--host-cores", "6", "--services", str(services))
    edf, bound = simulate(capsys, *common, *policies("sponge", "bound"))
    (fifo,) = simulate(capsys, *common, *policies("sponge"), "--order", "fifo", "--no-distress")
    assert edf["requests"] == fifo["requests"] == bound["requests"] > 450
    assert edf["mean_cores"] <= 6.5


def test_an_outage_hits_every_client_at_once(profile, capsys):
    common = ("--profile", profile, "--seconds", "60", "--slo-ms", "2000", *policies("static:4"))
    (calm,), (out,) = simulate(capsys, *common), simulate(capsys, *common, "--outage", "20:3,40:1")
    assert out["requests"] == calm["requests"]
    # Sent up to 2 s before the end of three seconds of nothing, nobody's budget is left.
    assert out["dead_on_arrival"] - calm["dead_on_arrival"] == pytest.approx(20, abs=12)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--policy", "best"], "policy: expected one of"),
        (["--payload-kb", "x"], "payload_kb: "),
        (["--profile", "/nowhere.csv"], "/nowhere.csv: cannot be read"),
        (["--arrivals", "/nowhere.txt"], "/nowhere.txt: cannot be read"),
        (["--arrivals", "flash:5"], "arrivals: 'flash:5': expected constant, poisson, flash:"),
        (["--outage", "1:0"], "outage: expected a beginning of 0 or more and a length above 0"),
        (["--outage", "1:1", "--outage", "2:1"], "outage: expected it to begin within the 2 s"),
        (["--bandwidth", "/nowhere.log"], "/nowhere.log: cannot be read"),
        (["--services", "/nowhere.toml"], "/nowhere.toml: cannot be read"),
    ],
)
def test_what_the_user_can_mend_is_one_line(profile, capsys, arguments, expected):
    assert main(["simulate", "--profile", profile, "--seconds", "2", *arguments]) == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_an_unknown_key_of_a_services_file_is_named(profile, tmp_path, capsys):
    path = tmp_path / "services.toml"
    path.write_text('[[service]]\nname = "a"\nspeed = 1\n')
    assert main(["simulate", "--profile", profile, "--services", str(path)]) == 2
    assert "speed" in capsys.readouterr().err


def papers_workload(traces, *more):
    """What the paper evaluates: YOLOv5s, 20 requests/s of 284 KiB, SLO 1 s, over its 4G log."""
    import argparse

    parser = argparse.ArgumentParser()
    flags.add_arguments(parser)
    files = (
        "--profile", str(traces / "sponge_paper" / "profile_yolov5s.csv"),
        "--bandwidth", str(traces / "ghent_4g" / "report_bus_0001.log"),
    )  # fmt: skip
    return description(parser.parse_args([*files, "--arrivals", "constant", *more])).scenario()


def test_the_papers_numbers_come_out(traces):
    policy = Paper()
    found = run(papers_workload(traces, "--truth", "fit"), policy, "paper").score
    cores = [size.cores for size in policy.sizes[:600] if size is not None]
    assert (len(cores), sum(cores) / len(cores)) == (516, pytest.approx(12.43, abs=0.005))
    assert found.mean_cores == pytest.approx((12.43 * 516 + 16 * 84) / 600, abs=0.1)
    assert found.requests == 12000
    assert found.avoidable_missed == 0


def test_fa2s_numbers_come_out(traces):
    where = papers_workload(traces, "--actuation-ms", "0")
    (second_by_second,) = run(where, Fa2(), "fa2").series
    replicas = second_by_second.core_seconds[:600]
    # A replica that goes first ends what it runs, and is paid for until then.
    assert 4.74 <= replicas.mean() < 4.74 + 0.05
    assert replicas.max() == pytest.approx(10)


def test_nothing_is_larger_than_the_host(traces):
    (large,) = papers_workload(traces).services
    (small,) = papers_workload(traces, "--host-cores", "2").services
    assert (large.max_cores, small.max_cores) == (16, 2)
    assert small.truth.fastest_s == large.truth.seconds(1, 2) > large.truth.fastest_s
