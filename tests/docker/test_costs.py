"""Timing resizes of real containers, as the experiment does."""

import docker
import pytest

from controlplane.actuators.docker import PROJECT
from evaluation.experiment import effect_time
from evaluation.experiment.effect_time import Step, Way


def spinning(engine: docker.DockerClient) -> set[str]:
    """Containers of this experiment, whoever runs it."""
    labelled = engine.containers.list(all=True, filters={"label": PROJECT})
    return {c.id for c in labelled if c.labels[PROJECT].startswith("sponge-costs-")}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("way", [Way.DOCKER, Way.DIRECT])
async def test_each_step_of_a_resize_is_timed_and_every_container_removed(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory, way: Way
) -> None:
    before = spinning(engine)
    directory = tmp_path_factory.mktemp("effect")
    effects = await effect_time.measure(way, directory, 2, 0, lambda _: None)
    steps = [Step.DISTRESS, Step.DECISION] if way is Way.DIRECT else list(Step)
    assert [effect.step for effect in effects] == steps
    assert all(len(effect.seconds) == 2 and min(effect.seconds) > 0 for effect in effects)
    assert spinning(engine) <= before
