"""Lies of a worker: what cannot be is refused, and what others lose by what could be is bounded."""

from dataclasses import dataclass, field

import pytest

from controlplane.actuators.fake import FakeActuator
from controlplane.allocation import Quota
from controlplane.config import Config, Governor, ServicePolicy
from controlplane.reports import AbsurdReportError, check_hello, check_sample
from controlplane.session import Session
from controlplane.state import Host
from evaluation.faults.liar import ABSURD, LIAR, Liar, Lie, telling
from tests.controlplane.test_loop import FakeWorker, Plane, settle

FLOOR, CEILING, HOST = 300, 2000, 3000


@pytest.mark.parametrize("spoil", ABSURD, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_is_refused(spoil):
    now = 0.0
    honest = telling(Lie.SLOW, lambda: now)  # whose samples are as they are
    hello = honest.hello()
    now = 1.0
    sample = honest.sample(distress=False)
    check_hello(hello)
    check_sample(sample, hello)
    spoil(sample)
    with pytest.raises(AbsurdReportError):
        check_sample(sample, hello)


@dataclass
class Beside:
    """An honest worker and one that lies on a host that is too small for all that both ask for."""

    lie: Lie
    plane: Plane = field(
        default_factory=lambda: Plane(
            FakeActuator(),
            Config(
                governor=Governor(shrink_hold_s=2.0),
                services=dict.fromkeys(
                    ("vision", LIAR), ServicePolicy(min_millicores=FLOOR, max_millicores=CEILING)
                ),
            ),
            hosts=[Host(HOST, 1 << 33)],
        )
    )
    given: list[int] = field(default_factory=list)  # to the honest one, each second
    taken: list[int] = field(default_factory=list)  # by the other one

    async def attach(self) -> tuple[FakeWorker, Liar, Session]:
        """Begin with 1.1 cores each."""
        liar = telling(self.lie, lambda: self.plane.now)
        hello = liar.hello()
        check_hello(hello)
        self.plane.actuator.quotas.update({"w": Quota(1100), hello.worker_id: Quota(1100)})
        return await FakeWorker.attach(self.plane), liar, await self.plane.loop.attach(hello)

    async def run(self, rates: list[int]) -> None:
        """Let the honest one have these rates, one second each."""
        honest, liar, session = await self.attach()
        quotas = self.plane.actuator.quotas
        for rate in rates:
            while not session.outbox.empty():
                await liar.obey(session.outbox.get_nowait())
            await honest.second(rate, wall_ms=40.0)
            self.plane.loop.record(session, liar.sample(distress=False))
            await settle()
            self.given.append(quotas["w"].cpu_millicores)
            self.taken.append(quotas[session.worker.worker_id].cpu_millicores)


@pytest.mark.parametrize(
    ("lie", "most"),
    [
        (Lie.CROWD, FLOOR),  # of so many no share is worth a core
        (Lie.SLOW, CEILING),
        (Lie.QUEUE, CEILING),
        (Lie.GIANT, 1100),  # what its one thread can use
        # WIDE is told in tests/test_faults_control.py alone: forty plans of so many rows and threads take long.
    ],
)
async def test_others_keep_their_floor_and_get_what_they_need_beside_what_could_be(lie, most):
    beside = Beside(lie)
    await beside.run([2] * 20 + [25] * 20)
    assert beside.plane.metric("sponge_control_samples_refused_total", service=LIAR) is None
    assert min(beside.given) >= FLOOR
    assert beside.given[19] < 1000 <= beside.given[-1]  # a core is what 25 times 40 ms a second take
    assert max(beside.taken[-10:]) <= most
