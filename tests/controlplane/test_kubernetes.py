"""The Kubernetes actuator, through the official client, against an API server of our own."""

import asyncio
import itertools
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry

from controlplane import config as settings
from controlplane.actuators import ActuationError, Pending, PutOff, Quota, Unreachable, WorkerRef, make
from controlplane.allocation import Allocation, Version
from controlplane.governor import Governor
from controlplane.metrics import Metrics
from controlplane.resize import Resize
from controlplane.session import Owner, Session, worker_ref
from controlplane.state import Fleet, Host
from core.config import ConfigError
from protos import control_pb2 as pb
from tests.kube_api import NAMESPACE, KubeApi

pytest.importorskip("kubernetes", reason="needs the extra `kubernetes`")

MIB = 1 << 20
W = WorkerRef("worker-1", container_id="w")
POD, RESIZE = ("get", "pods", ""), ("patch", "pods/resize", "")


@dataclass
class Clock:
    """Seconds that a test moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def kube():
    api = KubeApi({POD, RESIZE})
    api.start()
    api.add("w")
    yield api
    api.open.set()
    api.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def connect(kube, clock, tmp_path):
    """Make an actuator that reaches the API server by a kubeconfig file; it is closed at the end."""
    from controlplane.actuators.kubernetes import KubernetesActuator

    made = []

    def connect(resize_memory: bool = False, **options) -> KubernetesActuator:
        options = {"namespace": NAMESPACE, "kubeconfig": str(kube.kubeconfig(tmp_path / "config"))} | options
        config = settings.Actuator(
            kind=settings.ActuatorKind.KUBERNETES,
            resize_memory=resize_memory,
            kubernetes=settings.Kubernetes(**options),
        )
        made.append(KubernetesActuator(config, clock=clock))
        return made[-1]

    yield connect
    for actuator in made:
        await actuator.close()


async def put(actuator, quota: Quota) -> None:
    """Write, and write again, as a kubelet that is told to be prompt acts in between."""
    with pytest.raises(Pending):
        await actuator.write(W, quota)
    await actuator.write(W, quota)


async def put_off(actuator, quota: Quota) -> str:
    """The text of an error that says that asking again soon is of no use."""
    with pytest.raises(PutOff) as error:
        await actuator.write(W, quota)
    return str(error.value)


async def refusal(actuator, quota: Quota) -> str:
    """The text of an error that is not a mere Pending."""
    with pytest.raises(ActuationError) as error:
        await actuator.write(W, quota)
    assert not isinstance(error.value, Pending | Unreachable)
    return str(error.value)


async def test_quotas_are_in_force_as_requests_and_limits(kube, connect):
    kube.capacity_millicores = 100_000
    actuator = connect()
    assert (actuator.kind, actuator.holds_quota) == ("kubernetes", True)
    assert await actuator.read(W) == Quota(1000)
    await actuator.write(W, Quota(1000))  # is so already
    assert kube.patches == []
    for millicores, text in ((500, "500m"), (1500, "1500m"), (2000, "2"), (64_000, "64")):
        await put(actuator, Quota(millicores))
        resources = kube.pods["w"]["spec"]["containers"][0]["resources"]
        assert resources == {kind: {"cpu": text, "memory": "1Gi"} for kind in ("requests", "limits")}
        assert await actuator.read(W) == Quota(millicores)
    assert kube.pods["w"]["spec"]["containers"][1]["resources"]["limits"] == {"cpu": "100m", "memory": "64Mi"}


async def test_a_write_does_not_wait_for_the_kubelet(kube, connect):
    kube.prompt = False
    actuator = connect()
    with pytest.raises(Pending, match="pod w: 1500 millicores and 1073741824 bytes asked for"):
        await actuator.write(W, Quota(1500))
    assert [limits["cpu"] for limits in kube.limits("w")] == ["1500m", "1"]
    assert await actuator.read(W) == Quota(1000)
    with pytest.raises(Pending, match="not in force: the kubelet has yet to answer"):
        await actuator.write(W, Quota(1500))
    assert len(kube.patches) == 1
    kube.kubelet()
    await actuator.write(W, Quota(1500))
    assert await actuator.read(W) == Quota(1500)
    with pytest.raises(Pending):
        await actuator.write(W, Quota(500))
    assert await actuator.read(W) == Quota(500)  # at any moment


async def test_memory_follows_where_configured(kube, connect):
    actuator = connect(resize_memory=True, max_memory_mib=2048)
    assert await actuator.read(W) == Quota(1000, 1024 * MIB)
    for mib in (512, 64, 128):
        await put(actuator, Quota(1000, mib * MIB))
        assert await actuator.read(W) == Quota(1000, mib * MIB)
    await put(actuator, Quota(1000, 100 * MIB + 1))
    assert await actuator.read(W) == Quota(1000, 101 * MIB)
    await put(actuator, Quota(1000))
    assert kube.limits("w")[1] == {"cpu": "1", "memory": str(2048 * MIB)}
    assert await actuator.read(W) == Quota(1000)
    text = await refusal(actuator, Quota(1000, 2049 * MIB))
    assert "expected at most actuator.kubernetes.max_memory_mib = 2048" in text


async def test_memory_is_left_alone_by_default(kube, connect):
    actuator = connect()
    await put(actuator, Quota(1500, 512 * MIB))
    assert kube.patches[-1]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "1500m"}
    assert kube.limits("w")[1] == {"cpu": "1500m", "memory": "1Gi"}
    assert await actuator.read(W) == Quota(1500)


@pytest.mark.parametrize(("labels", "got"), [({"app": "w"}, "None"), ({"sponge.worker": "no"}, "no")])
async def test_other_pods_are_not_touched(kube, connect, labels, got):
    kube.add("w", **labels)
    actuator = connect()
    for call in (actuator.write(W, Quota(1500)), actuator.read(W)):
        with pytest.raises(ActuationError, match=f"pod w: expected the label sponge.worker=true, got {got}"):
            await call
    assert kube.patches == []


async def test_every_label_of_the_selector_counts(kube, connect):
    kube.add("w", app="serving", tier="a")
    assert await connect(label_selector="app=serving,tier=a").read(W) == Quota(1000)
    with pytest.raises(ActuationError, match="expected the label tier=b, got a"):
        await connect(label_selector="app=serving,tier=b").read(W)


async def test_a_label_taken_away_meanwhile_is_noticed(kube, connect):
    kube.before_patch.append(lambda pod: pod["metadata"]["labels"].clear())
    assert "expected the label" in await refusal(connect(), Quota(1500))
    assert kube.patches == []


@pytest.mark.parametrize("name", ["", "../../secrets/w", "W", "w/resize", "w?x=y"])
async def test_what_is_no_name_of_a_pod_is_refused(kube, connect, name):
    with pytest.raises(ActuationError, match="worker worker-1: container_id: expected the name of a pod"):
        await connect().read(WorkerRef("worker-1", container_id=name))
    assert kube.seen == set()


async def test_another_container_is_an_error(connect):
    with pytest.raises(ActuationError, match="pod w: expected a container main"):
        await connect(container="main").read(W)


@pytest.mark.parametrize(
    "resources", [{}, {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}]
)
async def test_pods_that_are_not_guaranteed_are_refused_with_the_way_out(kube, connect, resources):
    kube.add("w", resources)
    text = await refusal(connect(), Quota(1500))
    assert (
        "expected the QoS class Guaranteed, got Burstable: give each of its containers CPU and memory" in text
    )


async def test_nothing_goes_beyond_the_ceiling(kube, connect):
    actuator = connect(max_millicores=4000)
    text = await refusal(actuator, Quota(4001))
    assert text == "pod w: expected at most actuator.kubernetes.max_millicores = 4000, got 4001"
    assert "expected a CPU quota" in await refusal(actuator, Quota(None))
    assert kube.patches == []
    await put(actuator, Quota(4000))


async def test_what_the_node_cannot_give_is_not_asked_for_again(kube, connect):
    actuator = connect()
    with pytest.raises(Pending):
        await actuator.write(W, Quota(9000))
    for millicores in (9000, 9500):
        text = await put_off(actuator, Quota(millicores))
        assert "PodResizePending (Infeasible): Node didn't have enough capacity" in text
        assert (
            f"{millicores} millicores and 1073741824 bytes not asked for, as node node-1 refused 9000" in text
        )
    assert len(kube.patches) == 1
    await put(actuator, Quota(1000))  # what it has all along
    await put(actuator, Quota(4000))
    assert "Infeasible" in await refusal(actuator, Quota(9000))
    assert len(kube.patches) == 3
    kube.pods["w"]["spec"]["nodeName"], kube.capacity_millicores = "node-2", 16_000
    await put(actuator, Quota(9000))


async def test_a_pod_that_is_forgotten_is_asked_anew(connect):
    actuator = connect()
    with pytest.raises(Pending):
        await actuator.write(W, Quota(9000))
    await put_off(actuator, Quota(9000))
    await put(actuator, Quota(4000))
    actuator.forget(W)
    with pytest.raises(Pending):
        await actuator.write(W, Quota(9000))


async def test_a_refusal_is_not_taken_for_one_of_the_next_size(kube, connect):
    actuator = connect()
    with pytest.raises(Pending):
        await actuator.write(W, Quota(9000))
    kube.prompt = False
    for _ in range(2):  # the kubelet has spoken of 9000 and not of 4000
        with pytest.raises(Pending):
            await actuator.write(W, Quota(4000))
    kube.kubelet()
    await actuator.write(W, Quota(4000))


async def test_what_the_node_puts_off_is_not_in_force(kube, connect):
    kube.taken_millicores = 7000
    actuator = connect()
    with pytest.raises(Pending):
        await actuator.write(W, Quota(2000))
    for _ in range(2):
        text = await put_off(actuator, Quota(2000))
        assert "not in force: PodResizePending (Deferred): Node didn't have enough resource: cpu" in text
        kube.kubelet()
    assert await actuator.read(W) == Quota(1000)
    kube.taken_millicores = 0
    kube.kubelet()
    await actuator.write(W, Quota(2000))
    assert len(kube.patches) == 1


async def test_a_kubelet_that_takes_too_long_is_an_error(kube, connect, clock):
    kube.actuating = ""
    actuator = connect(timeout_s=10.0)
    with pytest.raises(Pending):
        await actuator.write(W, Quota(2000))
    clock.now = 9.0
    with pytest.raises(Pending, match=r"not in force: PodResizeInProgress$"):
        await actuator.write(W, Quota(2000))
    clock.now = 10.0
    assert "not in force: PodResizeInProgress" in await refusal(actuator, Quota(2000))
    kube.actuating = None
    kube.kubelet()
    await actuator.write(W, Quota(2000))
    kube.actuating = "Error"
    with pytest.raises(Pending):
        await actuator.write(W, Quota(1000))
    assert "not in force: PodResizeInProgress (Error)" in await refusal(actuator, Quota(1000))


async def test_a_conflict_is_tried_again_with_fresh_state(kube, connect):
    actuator = connect()
    kube.before_patch = [lambda _: None] * 4
    await put(actuator, Quota(1500))
    assert len(kube.patches) == 1
    kube.before_patch = [lambda _: None] * 5
    assert "pod w: changed by others each of the 5 times" in await refusal(actuator, Quota(500))
    assert len(kube.patches) == 1


async def test_a_pod_that_went_is_an_error_and_its_successor_is_checked_anew(kube, connect):
    actuator = connect()
    await put(actuator, Quota(1500))
    del kube.pods["w"]
    for _ in range(2):
        assert await refusal(actuator, Quota(500)) == 'pod w is gone: pods "w" not found'
    kube.add("w", app="other")
    assert "expected the label" in await refusal(actuator, Quota(500))
    kube.add("w")
    kube.before_patch.append(lambda _: kube.pods.pop("w"))
    assert "pod w is gone" in await refusal(actuator, Quota(500))


@pytest.mark.parametrize("missing", [POD, RESIZE])
async def test_a_verb_that_the_role_lacks_is_named(kube, connect, missing):
    kube.allowed.remove(missing)
    verb, resource, _ = missing
    text = await refusal(connect(), Quota(1500))
    assert text.startswith(
        f'the control plane\'s Role lacks the verb {verb} on {resource}: pods "w" is forbidden'
    )


async def test_what_is_forbidden_or_invalid_is_not_asked_for_again_soon(kube, connect):
    actuator = connect()
    kube.answer = 403, b""
    await put_off(actuator, Quota(1500))
    kube.answer = 422, b""
    await put_off(actuator, Quota(1500))


async def test_an_api_server_without_the_subresource_is_too_old(kube, connect):
    kube.has_resize = False
    assert "knows no pods/resize, expected Kubernetes 1.35 or newer" in await refusal(connect(), Quota(1500))


async def test_what_the_api_server_finds_invalid_is_not_asked_for_again(kube, connect):
    kube.pods["w"]["spec"]["containers"][1]["resources"] = {}  # so it cannot stay Guaranteed
    actuator = connect()
    assert 'Kubernetes refused: Pod "w" is invalid' in await refusal(actuator, Quota(1500))
    text = await refusal(actuator, Quota(1500))
    assert "not asked for, as node node-1 refused 1500 millicores" in text
    assert "Pod QOS Class may not change as a result of resizing" in text


async def test_strangers_are_told_so(kube, connect, tmp_path):
    actuator = connect(kubeconfig=str(kube.kubeconfig(tmp_path / "stranger", token="guess")))
    assert await refusal(actuator, Quota(1500)) == "Kubernetes refused: Unauthorized"


async def test_what_is_no_status_is_one_line_all_the_same(kube, connect):
    kube.answer = 503, b"<html>\nno\n</html>"
    assert await refusal(connect(), Quota(1500)) == "Kubernetes refused: 503 Service Unavailable"


@pytest.mark.parametrize("body", [b"<html>\nno\n</html>", b"{}", b"[]", b"null", b"", b'{"spec": 3}'])
async def test_what_is_no_pod_is_an_error(kube, connect, body):
    kube.answer = 200, body
    assert await refusal(connect(), Quota(1500)) == "the API server answered with something else than a pod"


async def test_writes_succeed_again_when_the_api_server_comes_back(kube, connect):
    actuator = connect()
    await put(actuator, Quota(1500))
    kube.stop()
    for call in (actuator.write(W, Quota(800)), actuator.read(W)):
        with pytest.raises(Unreachable, match=r"Kubernetes API server unreachable: .*Connection refused"):
            await call
    kube.start()
    await put(actuator, Quota(800))


async def test_an_api_server_that_does_not_answer_is_given_up(kube, connect):
    kube.open.clear()
    with pytest.raises(Unreachable, match="Kubernetes API server unreachable"):
        await connect(timeout_s=0.05).write(W, Quota(800))
    kube.open.set()


async def test_an_api_server_that_is_slow_keeps_nothing_else_waiting(kube, connect):
    actuator = connect()
    kube.open.clear()
    reading = [asyncio.create_task(actuator.read(W)) for _ in range(50)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5.0):
        assert await asyncio.to_thread(lambda: "planned") == "planned"
    assert not any(task.done() for task in reading)
    kube.open.set()
    assert await asyncio.gather(*reading) == [Quota(1000)] * 50


async def test_outside_of_a_cluster_the_error_names_the_field(monkeypatch, tmp_path):
    from controlplane.actuators.kubernetes import KubernetesActuator

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    config = settings.Actuator(kind=settings.ActuatorKind.KUBERNETES)
    with pytest.raises(
        ConfigError, match=r"actuator\.kubernetes\.namespace: expected the workers' namespace"
    ):
        KubernetesActuator(config, tmp_path)
    (tmp_path / "namespace").write_text("serving\n")
    with pytest.raises(
        ConfigError, match=r"actuator\.kubernetes\.kubeconfig: expected one, outside of a pod"
    ):
        KubernetesActuator(config, tmp_path)
    options = {"namespace": "serving", "kubeconfig": str(tmp_path / "none")}
    config = settings.Actuator(
        kind=settings.ActuatorKind.KUBERNETES, kubernetes=settings.Kubernetes(**options)
    )
    with pytest.raises(ConfigError, match=r"actuator\.kubernetes\.kubeconfig: expected a kubeconfig file"):
        make(config)


async def test_growth_that_the_node_puts_off_is_not_told_to_the_worker(kube, connect):
    """Session and resize rule over the actuator: the directive goes out when the kubelet has acted, not before."""
    kube.taken_millicores = 7000
    before, after = Allocation(1000, 1, 1, 1), Allocation(2000, 2, 1, 1)
    hello = pb.Hello(worker_id="worker-1", service="s", container_id="w", model_digest="d", slo_ms=100)
    hello.max_instances = hello.max_threads = hello.max_batch = 2
    hello.allocation.MergeFrom(pb.Allocation(cpu_millicores=1000, instances=1, threads=1, max_batch=1))
    registry, progress, seconds = CollectorRegistry(), asyncio.Event(), itertools.count(1.0)
    worker = Fleet([Host(8000, 1 << 33)], 0.001).attach(hello, Resize(), Governor(1.0, 100), 0.0)
    session = Session(
        worker,
        Owner(worker_ref(worker.hello)),
        connect(),
        Metrics(registry),
        0.1,
        lambda: next(seconds),
        progress.set,
    )
    session.perform(worker.resize.attached(None, before, Quota(1000), 0.0))
    session.perform(worker.resize.retarget(after, Version(1, 1), 0.5))

    def failures() -> float | None:
        labels = {"actuator": "kubernetes"}
        return registry.get_sample_value("sponge_control_actuation_failures_total", labels)

    while not failures():  # asked for, and then found to be put off
        progress.clear()
        await progress.wait()
    assert (session.outbox.empty(), worker.resize.in_force) == (True, Quota(1000))
    kube.taken_millicores = 0
    kube.kubelet()
    session.perform(worker.resize.poll(100.0))
    directive = await session.outbox.get()
    assert directive.allocation.cpu_millicores == 2000
    assert worker.resize.in_force == Quota(2000)
