"""A real Prometheus scrapes both planes and finds every documented metric; the dashboard asks for no others."""

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sponge.client import Client
from tests import models, processes
from tests.processes import LOOPBACK, eventually, free_port

DEPLOY = Path(__file__).parents[1] / "deploy"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs prometheus and promtool, as in Debian's package prometheus",
)


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the documentation's table."""

    name: str
    kind: str
    labels: frozenset[str]

    @property
    def job(self) -> str:
        return self.name.split("_")[1]

    @property
    def series(self) -> str:
        """One time series that the metric consists of."""
        return f"{self.name}_count" if self.kind == "histogram" else self.name


def documented() -> list[Metric]:
    rows = re.findall(
        r"^\| `(sponge_\w+)` \| (\w+) \| (.*?) ?\| ", (DEPLOY / "README.md").read_text(), re.MULTILINE
    )
    return [Metric(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows]


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/sponge.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server, asked over HTTP."""

    address: str

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=processes.PATIENCE_S) as response:
            return json.load(response)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def ready(self) -> bool:
        try:
            self.ask("status/buildinfo")
        except OSError:
            return False
        return True


@contextmanager
def prometheus(directory: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """Scrape `targets`, addresses by job name, until the block ends."""
    address = f"{LOOPBACK}:{free_port()}"
    # JSON is YAML.
    scrapes = [{"job_name": job, "static_configs": [{"targets": [at]}]} for job, at in targets.items()]
    config = directory / "prometheus.yml"
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes}))
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        running = Prometheus(address)
        eventually(running.ready)
        yield running
    finally:
        server.terminate()
        server.wait(processes.PATIENCE_S)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus beside a control plane and a worker that has answered and has been resized."""
    directory = tmp_path_factory.mktemp("planes")
    control, control_metrics = f"{LOOPBACK}:{free_port()}", f"{LOOPBACK}:{free_port()}"
    config = processes.write_toml(
        directory / "control.toml",
        {
            "server": {"listen": control, "metrics_listen": control_metrics},
            "actuator": {"kind": "threads"},
            "governor": {"shrink_hold_s": 0.0},
            "planner": {"interval_s": 0.1},
        },
    )
    model = models.scale(directory / "scale.onnx")
    with (
        processes.running("controlplane", config),
        # Four instances are more than nothing to do deserves: a decision is due.
        processes.worker(
            directory, model, control={"address": control}, engine={"instances": 4, "max_instances": 4}
        ) as worker,
        prometheus(directory, {"worker": worker.metrics_address, "control": control_metrics}) as server,
    ):
        with Client(worker.address) as client:
            client.infer({"x": np.ones((1, 4), np.float32)}, model="scale", timeout_s=processes.PATIENCE_S)
        eventually(lambda: server.query("sponge_control_decisions_total > 0"))
        eventually(lambda: server.query("sponge_worker_latency_seconds_count > 0"))
        yield server


def test_both_planes_are_up(scraped: Prometheus) -> None:
    up = {series["metric"]["job"]: series["value"][1] for series in scraped.query("up")}
    assert up == {"worker": "1", "control": "1"}


@pytest.mark.parametrize("metric", documented(), ids=lambda metric: metric.name)
def test_every_documented_metric_is_scraped(scraped: Prometheus, metric: Metric) -> None:
    # OpenMetrics names a counter without the suffix of its samples.
    name = metric.name.removesuffix("_total")
    described = scraped.ask("targets/metadata", match_target=f'{{job="{metric.job}"}}', metric=name)
    assert [(entry["type"], bool(entry["help"])) for entry in described] == [(metric.kind, True)]
    # What is counted by label has no series before it happens.
    for series in scraped.query(metric.series):
        assert series["metric"].keys() - {"__name__", "job", "instance"} == metric.labels


def test_what_needs_no_event_has_a_value_from_the_start(scraped: Prometheus) -> None:
    unlabelled = {metric.series for metric in documented() if not metric.labels}
    assert {series for series in unlabelled if not scraped.query(series)} == set()


def test_no_metric_is_left_undocumented(scraped: Prometheus) -> None:
    described = scraped.ask("targets/metadata", match_target='{job=~"worker|control"}')
    known = {metric.name.removesuffix("_total") for metric in documented()}
    assert {entry["metric"] for entry in described if entry["metric"].startswith("sponge_")} == known


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_the_dashboard_asks_for_what_there_is(scraped: Prometheus, expression: str) -> None:
    scraped.query(expression)  # HTTP 400 where it is not PromQL
    names = re.findall(r"sponge_\w+", expression)
    series = {name for metric in documented() for name in (metric.name, f"{metric.name}_bucket")}
    assert names
    assert set(names) <= series


def test_the_shipped_configuration_is_valid() -> None:
    check = ["promtool", "check", "config", str(DEPLOY / "prometheus.yml")]
    subprocess.run(check, check=True, capture_output=True)
