"""Replicas that follow the plans: in the loop with fakes, and at an API server of our own."""

from dataclasses import replace

import pytest

from controlplane import config as settings
from controlplane.actuators.fake import FakeActuator, FakeScales
from controlplane.allocation import Quota
from controlplane.config import Config, Governor, ServicePolicy
from controlplane.scales import ScaleConflictError, ScaleError
from controlplane.scaling import crew_of
from tests.controlplane.test_loop import FakeWorker, Plane
from tests.kube_api import NAMESPACE, KubeApi

NAME = "deployment/vision"


def fleet(**policy) -> Plane:
    """A service of workers that may have two cores each, some 18 requests a second, and one to three replicas."""
    policy = {"max_millicores": 2100, "scale": NAME, "max_replicas": 3} | policy
    config = Config(governor=Governor(shrink_hold_s=2.0), services={"vision": ServicePolicy(**policy)})
    plane = Plane(FakeActuator({"w": Quota(1100)}), config, scales=FakeScales(vision=1))
    plane.fleet.hosts[""].millicores = 16_000
    return plane


async def seconds(plane: Plane, count: int, rate: int, *workers: FakeWorker) -> None:
    """So many seconds of `rate` requests to each of the workers."""
    for _ in range(count):
        for worker in workers:
            await worker.second(rate)
            plane.now -= 1.0  # all in the same second
        plane.now += 1.0
        looking = plane.loop._scaling._looking
        if looking is not None:
            await looking


async def test_replicas_follow_when_the_ceiling_is_reached_and_back_when_fewer_do():
    plane = fleet()
    worker = await FakeWorker.attach(plane, max_instances=2)
    await seconds(plane, 20, 12, worker)
    assert plane.scales.writes == []
    assert plane.actuator.quotas["w"].cpu_millicores > 1100  # vertical first
    await seconds(plane, 12, 28, worker)
    assert plane.scales.writes == [(NAME, 2)]
    plane.actuator.quotas["w2"] = Quota(1100)
    second = await FakeWorker.attach(plane, worker_id="w2", max_instances=2)
    await seconds(plane, 20, 14, worker, second)
    assert plane.scales.writes == [(NAME, 2)]
    await seconds(plane, 330, 3, worker, second)
    assert plane.scales.writes == [(NAME, 2), (NAME, 1)]
    assert plane.metric("sponge_control_replicas", service="vision") == 1
    assert plane.metric("sponge_control_scalings_total", service="vision", action="grow") == 1
    assert plane.metric("sponge_control_scalings_total", service="vision", action="shrink") == 1


async def test_a_node_that_is_full_is_as_good_as_a_ceiling():
    plane = fleet(max_millicores=6000)
    plane.actuator.most_millicores = 1200
    worker = await FakeWorker.attach(plane, max_instances=4)
    await seconds(plane, 20, 14, worker)
    assert plane.scales.writes == [(NAME, 2)]


async def test_without_a_maximum_nobody_is_asked():
    plane = fleet(max_replicas=0)
    worker = await FakeWorker.attach(plane, max_instances=2)
    await seconds(plane, 20, 28, worker)
    assert (plane.scales.reads, plane.scales.writes) == (0, [])


async def test_paused_nothing_is_asked_for_and_neither_is_it_of_a_silent_fleet():
    plane = fleet()
    worker = await FakeWorker.attach(plane, max_instances=2)
    plane.fleet.paused = True
    await seconds(plane, 20, 28, worker)
    plane.fleet.paused = False
    for _ in range(20):
        plane.now += 5.0
        await plane.loop.tick()
    assert plane.scales.reads == 0


async def test_who_else_changes_the_number_is_given_way(capsys):
    plane = fleet()
    worker = await FakeWorker.attach(plane, max_instances=2)
    await seconds(plane, 4, 12, worker)
    plane.scales.replicas[NAME] = 2
    await seconds(plane, 4, 12, worker)
    plane.scales.replicas[NAME] = 1
    await seconds(plane, 30, 28, worker)
    assert plane.scales.writes == []
    assert capsys.readouterr().out.count("replicas changed by others") == 2
    plane.scales.replicas[NAME] = 0
    await seconds(plane, 310, 28, worker)
    assert plane.scales.writes == []  # somebody wants none


async def test_who_is_faster_is_looked_at_again(capsys):
    plane = fleet()
    plane.scales.contested = True
    worker = await FakeWorker.attach(plane, max_instances=2)
    await seconds(plane, 20, 28, worker)
    assert plane.scales.writes == []
    plane.scales.contested = False
    await seconds(plane, 2, 28, worker)
    assert plane.scales.writes == [(NAME, 2)]
    assert "replicas not" not in capsys.readouterr().out


async def test_failures_are_counted_told_once_and_nothing_else_suffers(capsys):
    plane = fleet()
    plane.scales.failure = "no answer after 10 s"
    worker = await FakeWorker.attach(plane, max_instances=2)
    await seconds(plane, 20, 28, worker)
    assert plane.actuator.quotas["w"].cpu_millicores == 2100
    assert plane.metric("sponge_control_scale_failures_total", service="vision") > 3
    plane.scales.failure = "no answer after 11 s"
    await seconds(plane, 4, 28, worker)
    plane.scales.failure = ""
    await seconds(plane, 10, 28, worker)
    assert plane.scales.writes == [(NAME, 2)]
    assert capsys.readouterr().out.count("replicas not changed") == 1


async def test_what_starts_is_not_in_the_way_of_what_it_is_to_help():
    """A pod that starts counts with what it starts with, not beside what was planned for it."""
    plane = fleet()
    plane.fleet.hosts[""].millicores = 4300
    worker = await FakeWorker.attach(plane, max_instances=2)
    await seconds(plane, 12, 28, worker)
    await FakeWorker.attach(plane, worker_id="w2", max_instances=2)
    before = list(plane.scales.writes)
    await seconds(plane, 20, 28, worker)
    assert plane.scales.writes == before == [(NAME, 2)]


async def test_what_is_hoped_for_while_a_size_is_tried_does_not_count():
    plane = fleet()
    worker = await FakeWorker.attach(plane, max_instances=2)
    await seconds(plane, 4, 12, worker)
    made = plane.loop.round_of(worker.session.worker)
    hoped = replace(made.services[0], latency=made.services[0].latency.snapshot(hopeful=True))
    crew = crew_of(replace(made, services=(hoped,)), "vision")
    assert not crew.workers[0].latency.hopeful
    assert crew.workers[0].latency.mean(1, 1) == pytest.approx(0.1)


async def test_what_starts_gives_back_no_more_than_it_was_counted_with():
    plane = fleet()
    worker = await FakeWorker.attach(plane, max_instances=2)
    plane.actuator.quotas["w2"] = Quota(1100)
    await FakeWorker.attach(plane, 50_000, worker_id="w2", starting=True)
    await worker.second(12)
    newest = plane.loop.round_of(worker.session.worker)
    assert newest is not None
    assert newest.host_millicores == 16_000 - 1100
    crew = crew_of(newest, "vision")
    assert crew is not None
    assert crew.host.millicores == 16_000


GRANTED = {
    (verb, f"{kind}.apps/scale", "") for verb in ("get", "patch") for kind in ("deployments", "statefulsets")
}


@pytest.fixture
def kube():
    api = KubeApi(GRANTED)
    api.start()
    api.add_scale("deployments", "vision", 1)
    api.add_scale("statefulsets", "vision", 5)
    yield api
    api.open.set()
    api.stop()


@pytest.fixture
async def connect(kube, tmp_path):
    """Reach the scales by a kubeconfig file."""
    pytest.importorskip("kubernetes", reason="needs the extra `kubernetes`")
    from controlplane.actuators import make_scales

    made = []

    def connect(**options):
        options = {"namespace": NAMESPACE, "kubeconfig": str(kube.kubeconfig(tmp_path / "config"))} | options
        made.append(make_scales(settings.Kubernetes(**options)))
        return made[-1]

    yield connect
    for scales in made:
        await scales.close()


@pytest.mark.parametrize("kind", ["deployment", "statefulset"])
async def test_a_scale_is_read_and_changed(kube, connect, kind):
    scales, name = connect(), f"{kind}/vision"
    found = await scales.read(name)
    await scales.write(name, found.replicas + 2, found.version)
    assert kube.scales[f"{kind}s", "vision"]["spec"] == {"replicas": found.replicas + 2}
    assert (await scales.read(name)).replicas == found.replicas + 2
    other = {"deployment": ("statefulsets", 5), "statefulset": ("deployments", 1)}[kind]
    assert kube.scales[other[0], "vision"]["spec"] == {"replicas": other[1]}


async def test_none_at_all_is_a_number_too(kube, connect):
    kube.scales["deployments", "vision"]["spec"] = {}  # as 0 is left out
    assert (await connect().read(NAME)).replicas == 0


async def test_what_somebody_else_has_changed_meanwhile_stays(kube, connect):
    scales = connect()
    found = await scales.read(NAME)
    kube.scale("deployments", "vision", 7)
    with pytest.raises(ScaleConflictError, match=r"deployment/vision: .*the object has been modified"):
        await scales.write(NAME, 2, found.version)
    kube.before_patch.append(lambda scale: scale["spec"].update(replicas=8))
    with pytest.raises(ScaleConflictError):
        await scales.write(NAME, 2, (await scales.read(NAME)).version)
    assert (await scales.read(NAME)).replicas == 8


@pytest.mark.parametrize("verb", ["get", "patch"])
async def test_a_verb_that_the_role_lacks_is_named(kube, connect, verb):
    kube.allowed.remove((verb, "deployments.apps/scale", ""))
    scales = connect()
    with pytest.raises(ScaleError) as error:
        await scales.write(NAME, 2, (await scales.read(NAME)).version)
    expected = f"deployment/vision: the control plane's Role lacks the verb {verb} on deployments/scale: "
    assert str(error.value).startswith(expected)


async def test_what_is_not_there_is_named(connect):
    with pytest.raises(ScaleError) as error:
        await connect().read("deployment/another")
    assert str(error.value) == (
        'deployment/another: expected one in the workers\' namespace: deployments "another" not found'
    )


@pytest.mark.parametrize("body", [b"<html>\nno\n</html>", b"{}", b"[]", b"null", b"", b'{"spec": 3}'])
async def test_what_is_no_scale_is_an_error(kube, connect, body):
    kube.answer = 200, body
    with pytest.raises(ScaleError) as error:
        await connect().read(NAME)
    assert str(error.value) == "deployment/vision: the API server answered with something else than a scale"


async def test_an_api_server_that_fails_or_does_not_answer_is_an_error(kube, connect):
    kube.answer = 503, b"<html>\nno\n</html>"
    with pytest.raises(ScaleError, match="deployment/vision: Kubernetes refused: 503 Service Unavailable"):
        await connect().read(NAME)
    kube.answer = None
    kube.open.clear()
    with pytest.raises(ScaleError, match="deployment/vision: Kubernetes API server unreachable"):
        await connect(timeout_s=0.05).write(NAME, 2, "1")
    kube.open.set()


async def test_a_look_that_takes_long_is_the_only_one():
    """Plans do not wait for it, and no other begins meanwhile."""
    plane = fleet()
    plane.scales.hold()
    worker = await FakeWorker.attach(plane, max_instances=2)
    for _ in range(12):
        await worker.second(28)
    assert (plane.scales.reads, plane.actuator.quotas["w"].cpu_millicores) == (1, 2100)
    await plane.loop._scaling.close()
    plane.scales.release()
    assert plane.scales.writes == []
