"""`sponge plan`: files and flags, its two outputs, its errors, and the control loop beside it."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from controlplane import planner
from controlplane.actuators.fake import FakeActuator
from controlplane.allocation import Quota
from controlplane.config import Config, ServicePolicy
from controlplane.loop import ControlLoop
from controlplane.metrics import Metrics
from controlplane.profiled import executions
from controlplane.profilefile import read_times
from controlplane.state import Fleet, Host
from controlplane.store import Store
from controlplane.whatif import foresee
from protos import control_pb2 as pb
from sponge import planfile
from sponge.__main__ import main

DOCUMENT = Path(__file__).parents[1] / "docs" / "control-plane.md"
PROFILE = """\
# model: some.onnx
rows,threads,mean_ms,p50_ms,p95_ms,p99_ms,count
1,1,50.0,49.5,54.0,58.0,200
4,1,196.0,195.0,205.0,215.0,60
1,2,28.0,27.5,32.0,35.0,300
4,2,108.0,107.0,118.0,125.0,90
"""
FLEET = """\
[host]
millicores = 7700

[services.vision]
profile = "vision.csv"
rate = 20
slo_ms = 1000
budgets_ms = { p5 = 200, p50 = 700, p95 = 900 }

[services.magika]
latency = { gamma_ms = 4, delta_ms = 1, epsilon_ms = 1, eta_ms = 0.5 }
rate = 60
slo_ms = 300
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file of two services, one of them with a profile."""
    (tmp_path / "vision.csv").write_text(PROFILE)
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return path


def answer(capsys, path: Path, *flags: str) -> dict:
    """Give what --json prints."""
    assert main(["plan", str(path), "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


# What is printed


def test_a_table_and_an_object_say_the_same(file, capsys):
    told = answer(capsys, file, "--fit", "magika")
    assert main(["plan", str(file), "--fit", "magika"]) == 0
    header, vision, magika, host, *_, fit = capsys.readouterr().out.splitlines()
    assert "p95 ms" in header
    for line, one in zip((vision, magika), told["services"], strict=True):
        words = line.split()
        assert words[:3] == [one["name"], f"{one['rate']:.1f}", str(one["cpu_millicores"])]
        assert words[3] == f"{one['instances']}×{one['threads']}×{one['max_batch']}"
        assert words[5:7] == [f"{one['mean_ms']:.1f}", f"{one['upper_ms']:.1f}"]
        assert words[-1] == one["bound"]
    given = 7700 - told["host"]["left_millicores"]
    assert host == f"host: {given} of 7700 millicores given, {7700 - given} left"
    assert given == sum(one["cpu_millicores"] for one in told["services"])
    assert fit.startswith(f"fit: {told['fit']['copies']} of magika, ")


def test_flags_override_the_file(file, capsys):
    plain = answer(capsys, file)
    calm = answer(capsys, file, "--rate", "vision=1", "--rate", "magika=0")
    assert [one["rate"] for one in plain["services"]] == [20, 60]
    assert [one["rate"] for one in calm["services"]] == [1, 0]
    assert calm["host"]["left_millicores"] > plain["host"]["left_millicores"]
    small = answer(capsys, file, "--host", "1100")
    assert small["host"]["millicores"] == 1100
    assert small["host"]["full"]
    assert not plain["host"]["full"]
    assert main(["plan", str(file), "--host", "1100"]) == 0
    assert re.search(r"^the host is full: .*vision misses \d", capsys.readouterr().out, re.MULTILINE)


def test_a_share_that_is_allowed_to_miss_lets_more_fit(file, capsys):
    strict, lax = (answer(capsys, file, "--fit", "vision", "--share", share)["fit"] for share in ("1", "60"))
    assert strict["share"] == 0.01
    assert 0 < strict["copies"] < lax["copies"]
    (missing,) = strict["beyond"]["missing"]  # of equal copies the one that misses most
    assert missing["name"] == "vision"
    assert missing["miss_share"] > 0.01


def test_memory_is_shown_where_it_is_planned(file, capsys):
    text = FLEET.replace("millicores = 7700", "millicores = 7700\nmemory_mib = 4096")
    text = text.replace("slo_ms", "memory_mib = 400\nslo_ms")
    file.write_text(text)
    told = answer(capsys, file)
    given = sum(one["memory_mib"] for one in told["services"])
    assert given >= 2 * 500  # a quarter is kept beside what is in use
    assert told["host"]["left_memory_mib"] == 4096 - given
    assert main(["plan", str(file)]) == 0
    assert f"memory: {given} of 4096 MiB given" in capsys.readouterr().out
    assert max(one["memory_mib"] for one in told["services"]) == 576  # nine steps
    file.write_text(text.replace("slo_ms", "max_memory_mib = 575\nslo_ms"))
    assert max(one["memory_mib"] for one in answer(capsys, file)["services"]) == 512


def test_whole_cores_are_planned_in_thousands(file, capsys):
    file.write_text(FLEET.replace("slo_ms", "whole_cores = true\nslo_ms"))
    told = answer(capsys, file)
    assert all(one["cpu_millicores"] % 1000 == 0 for one in told["services"])


def test_a_number_is_all_budgets_and_none_is_the_slo(file):
    (vision, magika) = planfile.read(file, {}).services
    assert magika.demand.budgets == ((0.3, 1.0),)
    budgets = [budget_s for budget_s, _ in vision.demand.budgets]
    assert (budgets[0], budgets[-1]) == (0.2, pytest.approx(0.9, rel=0.05))
    half = sum(share for budget_s, share in vision.demand.budgets if budget_s < 0.7)
    assert half == pytest.approx(0.5, abs=0.1)
    file.write_text(FLEET.replace("{ p5 = 200, p50 = 700, p95 = 900 }", "800"))
    assert planfile.read(file, {}).services[0].demand.budgets == ((0.8, 1.0),)


def test_the_document_shows_what_the_command_prints(tmp_path, capsys):
    """Every block that begins with `$ sponge plan` is the output for the document's first block of TOML."""
    text = DOCUMENT.read_text()
    example = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    path = tmp_path / "fleet.toml"
    path.write_text(example)
    shown = re.findall(r"^```\n\$ sponge plan fleet\.toml(.*?)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert shown
    for flags, output in shown:
        assert main(["plan", str(path), *flags.split()]) == 0
        assert capsys.readouterr().out == output


# What cannot be used


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("rate = 20", "raet = 20", "services.vision: Object contains unknown field `raet`"),
        ("[host]", "[hots]", "unknown field `hots`"),
        ("millicores = 7700", "", "host: Object missing required field `millicores`"),
        ("millicores = 7700", "millicores = 0", "host.millicores: Expected `int` >= 1"),
        ("rate = 20", "rate = -1", "services.vision: rate: Expected `float` >= 0"),
        ("rate = 20", "rate = nan", "services.vision: rate: "),
        ("rate = 20", "rate = inf", "services.vision: rate: "),
        ("rate = 20\n", "", "services.vision: Object missing required field `rate`"),
        ("slo_ms = 1000", "slo_ms = 0", "services.vision: slo_ms: Expected `float` > 0"),
        ("slo_ms = 1000", "slo_ms = 800", "services.vision: budgets_ms: expected at most slo_ms = 800, got 900"),
        ("p50 = 700", "p50 = 100", "services.vision: budgets_ms: expected budgets that do not fall, got p5 = 200"),
        ("p50 = 700", "half = 700", "services.vision: budgets_ms: expected quantiles as p5 or p50, got half"),
        ("p50 = 700", "p50 = -7", "services.vision: budgets_ms"),
        ("p50 = 700", "p50 = nan", "services.vision: budgets_ms"),
        ("{ p5 = 200, p50 = 700, p95 = 900 }", "{}", "budgets_ms: expected a quantile at least"),
        ("vision.csv", "none.csv", "services.vision: profile: "),
        ("vision.csv", "fleet.toml", "services.vision: profile: "),
        ("vision.csv", ".", "services.vision: profile: "),
        ('profile = "vision.csv"', "", "services.vision: profile: expected that, or latency, and not both"),
        ("latency = {", 'profile = "vision.csv"\nlatency = {', "services.magika: profile: expected that, or"),
        ("gamma_ms = 4", "gamma_ms = -4", "services.magika: latency.gamma_ms: Expected `float` >= 0"),
        ("gamma_ms = 4", "gama_ms = 4", "services.magika: latency: Object contains unknown field `gama_ms`"),
        ("gamma_ms = 4", "gamma_ms = nan", "services.magika: latency"),
        ("gamma_ms = 4", "p95_ratio = 0.5", "services.magika: latency.p95_ratio: Expected `float` >= 1"),
        ("gamma_ms = 4, delta_ms = 1, epsilon_ms = 1, eta_ms = 0.5", "", "services.magika: latency: expected gamma"),
        ("rate = 60", "rate = 60\nmin_millicores = 900\nmax_millicores = 800", "min_millicores: expected at most"),
        ("rate = 60", "rate = 60\nwhole_cores = true\nmax_millicores = 999", "max_millicores: expected at least 1000"),
        ("rate = 60", "rate = 60\nmax_instances = 0", "services.magika: max_instances: Expected `int` >= 1"),
        ("rate = 60", "rate = 60\nmemory_mib = 5", "services.magika: memory_mib: expected host.memory_mib"),
        ("millicores = 7700", "millicores = 7700\nmemory_mib = 5", "services.vision: memory_mib: expected one"),
        ("rate = 60", "rate = 60\nmax_memory_mib = 63", "services.magika: max_memory_mib: Expected `int` >= 64"),
        ("rate = 60", "rate = 60\nmax_memory_mib = 64", "max_memory_mib: expected host.memory_mib beside it"),
        ("[host]", "[planner]\ntight_wait = 1\n[host]", "planner: Object contains unknown field `tight_wait`"),
        ("[host]", "[host", "not valid TOML"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line_with_file_and_field(before, after, expected, file, capsys):
    assert FLEET.count(before) == 1
    file.write_text(FLEET.replace(before, after))
    assert main(["plan", str(file)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"sponge plan: {file}: ")
    assert expected in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rows,threads,p99_ms\n1,1,5\n", "expected the columns rows, threads, mean_ms"),
        (PROFILE.replace("49.5", "x"), "line 3: p50_ms: expected a number above 0, got 'x'"),
        (PROFILE.replace("49.5", "59"), "1 rows on 1 threads: expected quantiles that do not fall"),
        (PROFILE.replace("4,2,", "8,2,"), "is missing"),
    ],
)
def test_a_bad_profile_is_one_line_with_both_files_and_the_place(text, expected, file, capsys):
    profile = file.parent / "vision.csv"
    profile.write_text(text)
    assert main(["plan", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sponge plan: {file}: services.vision: profile: {profile}: ")
    assert expected in error
    assert error.count("\n") == 1


def test_no_services_and_no_file_are_one_line(file, capsys):
    file.write_text("[host]\nmillicores = 7700\n[services]\n")
    assert main(["plan", str(file)]) == 2
    assert f"{file}: services: Expected `object` of length >= 1" in capsys.readouterr().err
    assert main(["plan", str(file.parent / "none.toml")]) == 2
    assert "none.toml: cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--fit", "visoin"], "--fit: expected one of vision, magika, got visoin"),
        (["--rate", "visoin=3"], "--rate: expected one of vision, magika, got visoin"),
    ],
)
def test_a_service_that_the_file_does_not_have_is_one_line(flags, expected, file, capsys):
    assert main(["plan", str(file), *flags]) == 2
    error = capsys.readouterr().err
    assert error == f"sponge plan: {file}: {expected}\n"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--rate", "vision=-1"),
        ("--rate", "vision=nan"),
        ("--rate", "vision"),
        ("--rate", "=3"),
        ("--host", "0"),
        ("--share", "0"),
        ("--share", "100"),
    ],
)
def test_flags_are_checked(flag, value, file, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["plan", str(file), flag, value])
    assert caught.value.code == 2
    assert flag in capsys.readouterr().err


# Beside the control plane


async def test_the_answer_is_what_the_control_loop_plans(tmp_path):
    """Minutes of steady demand, and executions as in the profile: the loop's state is that of the file."""
    (tmp_path / "vision.csv").write_text(PROFILE)
    path = tmp_path / "fleet.toml"
    services = {"vision": (20, 3_000), "twin": (35, 64_000)}  # requests/s, ceiling
    path.write_text(
        "[host]\nmillicores = 6700\n"
        + "".join(
            f'[services.{name}]\nprofile = "vision.csv"\nrate = {rate}\nslo_ms = 1000\nbudgets_ms = 400\n'
            f"dispersion = 0.5\nmax_millicores = {ceiling}\nmax_instances = 6\nmax_threads = 2\nmax_batch = 4\n"
            for name, (rate, ceiling) in services.items()
        )
    )
    question = planfile.read(path, {})
    outlook = foresee(question.services, question.host, question.settings)

    plans = []

    def decide(*arguments):
        plans.append(planner.plan(*arguments))
        return plans[-1]

    now = 0.0
    config = Config(
        services={name: ServicePolicy(max_millicores=ceiling) for name, (_, ceiling) in services.items()}
    )
    fleet = Fleet([Host(6700, 1 << 33)], config.planner.request_overhead_ms / 1000)
    fleet.policies.update(config.services)
    fleet.paused = True  # plan, and leave it at that
    actuator = FakeActuator({name: Quota(1100) for name in services})
    metrics = Metrics(CollectorRegistry())
    loop = ControlLoop(config, fleet, actuator, Store(""), metrics, lambda: now, decide)
    for (rows, threads), times in read_times(tmp_path / "vision.csv").items():
        for work_s in executions(times):
            fleet.model("digest").record(rows, threads, work_s, 1.0, 0.0)
    allocation = pb.Allocation(cpu_millicores=1100, instances=1, threads=1, max_batch=1)
    sessions = {
        name: await loop.attach(
            pb.Hello(
                worker_id=name,
                service=name,
                model_digest="digest",
                max_instances=6,
                max_threads=2,
                max_batch=4,
                allocation=allocation,
            )
        )
        for name in services
    }
    for _ in range(1000):
        now += 0.2
        for name, (rate, _) in services.items():
            arrived = rate // 5
            sample = pb.Sample(
                window_s=0.2, headers=arrived, arrivals=arrived, arrived_rows=arrived, allocation=allocation
            )
            sample.budget_at_arrival.upper_bound_ms.extend([300, 500])
            sample.budget_at_arrival.count.extend([0, arrived, 0])
            loop.record(sessions[name], sample)
    await loop.tick()

    (made,) = plans
    assert made.host_full == outlook.host_full
    for prospect, assignment in zip(outlook.prospects, made.assignments, strict=True):
        assert prospect.configuration == assignment.configuration
        assert prospect.bound is assignment.reasons.bound
        assert prospect.utilisation == pytest.approx(assignment.reasons.utilisation, rel=1e-3)
        assert prospect.misses == pytest.approx(assignment.reasons.expected_misses, rel=0.05, abs=1e-3)
