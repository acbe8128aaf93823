"""What the control plane in virtual time begins with."""

from evaluation.simulation.plane import Plane
from evaluation.simulation.policies.static import Static
from evaluation.simulation.score import Tally
from tests.evaluation.simulation.scenarios import scenario, service


def test_a_profile_is_as_old_as_the_one_that_a_real_control_plane_begins_with():
    one = service([0.0])
    plane = Plane(scenario(one), Static([(1, 1, 1)]), [Tally(one)])
    latency = plane.seats[0].worker.latency
    assert latency.trust(2, 1) == 1.0
    latency.record(1, 1, 0.1, 1.0, 0.0)
    assert latency.trust(2, 1) == 1.0
    assert latency.executed(2, 1) == 0  # nothing that drift is held against
    for _ in range(14):
        latency.record(2, 1, 0.4, 1.0, 0.0)
    assert latency.mean(2, 1) > 0.3  # of 200 and 400 ms a dozen live ones count for more
