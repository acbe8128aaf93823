"""What is let through of a request's method, target and body, in tables."""

import json

import pytest

from socketproxy import policy
from socketproxy.policy import Kind
from socketproxy.request import Refusal, Request

ID = "0123456789ab"
FULL = "0123456789abcdef" * 4
UPDATE = f"/v1.41/containers/{ID}/update"
CPU = {"CpuPeriod": 20_000, "CpuQuota": 30_000, "CpuShares": 1500}
MEMORY = {"Memory": 1 << 30, "MemorySwap": -1}
CORES = {"CpusetCpus": "0-2,5"}


def call(
    method: str, target: str, body: object = None, *, resize_memory: bool = True, whole_cores: bool = True
) -> policy.Call:
    """The call of a request whose body is `body` as JSON, or nothing."""
    content = b"" if body is None else json.dumps(body).encode()
    return policy.call(Request(method, target, content), resize_memory, True, whole_cores)


@pytest.mark.parametrize("version", ["", "/v1.24", "/v1.41", "/v1.150"])
@pytest.mark.parametrize(
    ("method", "target", "body", "kind"),
    [
        ("GET", "/_ping", None, Kind.PING),
        ("GET", "/version", None, Kind.VERSION),
        ("GET", "/containers/json", None, Kind.LIST),
        ("GET", "/containers/json?limit=-1&all=0&size=0&trunc_cmd=0", None, Kind.LIST),
        ("GET", f"/containers/{ID}/json", None, Kind.INSPECT),
        ("GET", f"/containers/{FULL}/json", None, Kind.INSPECT),
        ("GET", f"/containers/{ID}/stats?stream=False&one-shot=True", None, Kind.STATS),
        ("GET", "/events", None, Kind.EVENTS),
        ("GET", "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D", None, Kind.EVENTS),
        ("POST", f"/containers/{ID}/update", CPU, Kind.UPDATE),
        ("POST", f"/containers/{ID}/update", CPU | MEMORY, Kind.UPDATE),
        ("POST", f"/containers/{ID}/update", CPU | CORES, Kind.UPDATE),
    ],
)
def test_calls_of_the_actuator_pass_in_any_version(
    version: str, method: str, target: str, body: object, kind: Kind
) -> None:
    found = call(method, version + target, body)
    assert (found.kind, found.version) == (kind, version)
    assert found.container in target


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/containers/create"),
        ("POST", f"/containers/{ID}/exec"),
        ("POST", f"/exec/{ID}/start"),
        ("GET", f"/exec/{ID}/json"),
        *(
            ("POST", f"/containers/{ID}/{verb}")
            for verb in ("start", "stop", "kill", "pause", "rename", "wait", "attach", "resize")
        ),
        ("GET", f"/containers/{ID}/attach/ws"),
        ("DELETE", f"/containers/{ID}"),
        ("DELETE", f"/containers/{ID}/json"),
        ("POST", "/containers/prune"),
        *(
            ("GET", f"/containers/{ID}/{what}")
            for what in ("logs", "top", "export", "archive?path=/", "changes")
        ),
        ("PUT", f"/containers/{ID}/archive?path=/"),
        *(("GET", f"/{what}") for what in ("images/json", "volumes", "networks", "info", "system/df")),
        *(
            ("GET", f"/{what}")
            for what in ("secrets", "configs", "plugins", "swarm", "nodes", "services", "tasks")
        ),
        ("POST", "/images/create?fromImage=x"),
        ("POST", "/build"),
        ("POST", "/commit"),
        ("POST", "/session"),
        ("POST", "/grpc"),
        ("POST", "/volumes/create"),
        ("DELETE", "/volumes/x"),
        ("POST", "/auth"),
        # The right path by another method.
        ("POST", "/_ping"),
        ("HEAD", f"/containers/{ID}/json"),
        ("POST", f"/containers/{ID}/json"),
        ("GET", UPDATE),
        ("PUT", UPDATE),
        # Another spelling of what is allowed.
        ("GET", "/"),
        ("GET", "//version"),
        ("GET", "//containers/json"),
        ("GET", "/containers//json"),
        ("GET", "/containers/json/"),
        ("GET", "/./version"),
        ("GET", "/v1.41/../version"),
        ("GET", "/v1.41/v1.41/version"),
        ("GET", "/v2.0/version"),
        ("GET", "/v1/version"),
        ("GET", "/V1.41/version"),
        ("GET", "/v1.41version"),
        ("GET", "/Version"),
        ("GET", "/%76ersion"),
        ("GET", "/version%00"),
        ("GET", "/version#"),
        ("GET", "/version?a=b"),
        ("GET", "/version;a"),
        ("GET", f"/containers/{ID}/%2e%2e/json"),
        ("GET", f"/containers/{ID}%2fjson"),
        ("GET", f"/containers/{ID}/../{ID}/json"),
        ("GET", f"/containers/{ID}/json?size=1"),
        ("POST", f"{UPDATE}/"),
        ("POST", f"{UPDATE}?name=x"),
        ("POST", f"{UPDATE}/../exec"),
        ("POST", f"{UPDATE}%2f..%2fexec"),
        ("POST", f"/containers/{ID}/exec?/containers/{ID}/update"),
        # Names, and what is too short or too long to be an id.
        ("GET", "/containers/vision/json"),
        ("GET", "/containers/0123456789a/json"),
        ("GET", f"/containers/{FULL}0/json"),
        ("GET", f"/containers/{ID.upper()}/json"),
        # Queries that ask for more, or hide something.
        ("GET", "/containers/json?"),
        ("GET", "/containers/json?size=1"),
        ("GET", "/containers/json?filters={}"),
        ("GET", "/containers/json?all=1&filters=%7B%7D"),
        ("GET", "/containers/json?all=1%26filters=x"),
        ("GET", "/containers/json?all=1;filters=x"),
        ("GET", "/containers/json?all=1&&size=0"),
        ("GET", "/events?since=0"),
        ("GET", "/events?filters={}"),
        ("GET", "/events?filters=%7B%7D&since=0"),
        ("GET", "/events/"),
        ("POST", "/events"),
        ("GET", f"/containers/{ID}/stats"),
        ("GET", f"/containers/{ID}/stats?stream=true&one-shot=true"),
        ("GET", f"/containers/{ID}/stats?stream=false&one-shot=true&stream=true"),
    ],
)
def test_everything_else_is_refused(method: str, target: str) -> None:
    with pytest.raises(Refusal, match="not let through"):
        call(method, target, CPU if method == "POST" else None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "body"),
        ([CPU], "object"),
        (CPU | {"RestartPolicy": {"Name": "always"}}, "RestartPolicy"),
        (CPU | {"CpusetCpus": ""}, "CpusetCpus"),
        (CPU | {"CpusetCpus": "0\n"}, "CpusetCpus"),
        (CPU | {"CpusetCpus": "-1"}, "CpusetCpus"),
        (CPU | {"CpusetMems": "0"}, "CpusetMems"),
        (CPU | {"NanoCpus": 1}, "NanoCpus"),
        (CPU | {"PidsLimit": 1}, "PidsLimit"),
        (CPU | {"Devices": []}, "Devices"),
        (CPU | {"BlkioWeight": 10}, "BlkioWeight"),
        (CPU | {"KernelMemory": 1}, "KernelMemory"),
        ({"cpuquota": 30_000}, "cpuquota"),  # for which the engine takes CpuQuota
        ({"CpuQuota": "30000"}, "CpuQuota"),
        ({"CpuQuota": True}, "CpuQuota"),
        ({"CpuQuota": None}, "CpuQuota"),
        ({"CpuQuota": -2}, "CpuQuota"),
        ({"CpuPeriod": 999}, "CpuPeriod"),
        ({"CpuPeriod": 1_000_001}, "CpuPeriod"),
        ({"CpuShares": 1}, "CpuShares"),
        ({"CpuShares": 262_145}, "CpuShares"),
        ({"Memory": 0}, "Memory"),
        ({"Memory": 1 << 63}, "Memory"),
        ({"MemorySwap": -2}, "MemorySwap"),
    ],
)
def test_an_update_with_anything_else_is_refused(body: object, reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        call("POST", UPDATE, body)


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"CpuQuota": 1} {"CpuQuota": 2}', b"[" * 4000])
def test_an_update_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal, match="body"):
        policy.call(Request("POST", UPDATE, body), resize_memory=True)


def test_a_body_where_none_belongs_is_refused() -> None:
    with pytest.raises(Refusal, match="body: expected none of version"):
        call("GET", "/version", CPU)


def test_memory_passes_only_where_configured() -> None:
    for name, value in MEMORY.items():
        with pytest.raises(Refusal, match="only with resize_memory"):
            call("POST", UPDATE, CPU | {name: value}, resize_memory=False)
    with pytest.raises(Refusal, match="only with resize_memory"):
        call("GET", f"/containers/{ID}/stats?stream=False&one-shot=True", resize_memory=False)
    assert call("POST", UPDATE, CPU, resize_memory=False).kind is Kind.UPDATE


def test_events_pass_only_where_configured() -> None:
    with pytest.raises(Refusal, match="events: let through only with events = true"):
        policy.call(Request("GET", "/events", b""), resize_memory=True)


def test_sets_of_cpus_pass_only_where_configured() -> None:
    with pytest.raises(Refusal, match="only with whole_cores"):
        call("POST", UPDATE, CPU | CORES, whole_cores=False)
    assert call("POST", UPDATE, CPU, whole_cores=False).kind is Kind.UPDATE
