"""Deadlines: the earliest of all that a client states and the service allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.deadline import Deadline, Policy, Stated, resolve

ONE_SECOND = Policy(max_slo_s=1.0)


def deadline_of(stated, policy=ONE_SECOND, received_at=100.0):
    resolved = resolve(stated, policy, received_at)
    return pytest.approx(resolved.deadline_at - received_at)


class TestSources:
    def test_a_client_that_says_nothing_has_the_services_slo(self):
        assert deadline_of(Stated()) == 1.0

    def test_grpc(self):
        assert deadline_of(Stated(remaining_s=0.4)) == 0.4

    def test_parameters(self):
        assert deadline_of(Stated(budget_s=0.3)) == 0.3

    def test_the_earliest_counts(self):
        assert deadline_of(Stated(remaining_s=0.4, budget_s=0.3)) == 0.3
        assert deadline_of(Stated(remaining_s=0.2, budget_s=0.3)) == 0.2

    def test_grace_is_taken_off_the_grpc_deadline_alone(self):
        assert deadline_of(Stated(remaining_s=2.5, budget_s=0.9, grace_s=2.0)) == 0.5
        assert deadline_of(Stated(remaining_s=3.5, budget_s=0.9, grace_s=2.0)) == 0.9

    def test_a_budget_that_is_over_already(self):
        assert deadline_of(Stated(budget_s=-0.2)) == -0.2

    def test_a_safety_timeout_has_the_services_slo(self):
        assert deadline_of(Stated(remaining_s=30.0)) == 1.0

    def test_unless_clients_are_trusted(self):
        trusting = Policy(max_slo_s=1.0, trust_client=True)
        assert deadline_of(Stated(remaining_s=30.0), trusting) == 30.0
        assert deadline_of(Stated(), trusting) == 1.0


def test_the_margin_is_kept_back_from_every_source():
    policy = Policy(max_slo_s=1.0, margin_s=0.1)
    assert deadline_of(Stated(), policy) == 0.9
    assert deadline_of(Stated(remaining_s=0.5), policy) == 0.4
    assert deadline_of(Stated(budget_s=0.5), policy) == 0.4


def test_short_deadlines_are_kept_but_not_served_first():
    policy = Policy(max_slo_s=1.0, min_slo_s=0.25)
    assert resolve(Stated(remaining_s=0.05), policy, 0.0) == Deadline(0.05, 0.05, rank_at=0.25)
    assert resolve(Stated(remaining_s=0.5), policy, 0.0) == Deadline(0.5, 0.5, rank_at=0.5)


class TestGrace:
    def test_a_late_answer_is_wanted_until_the_client_goes(self):
        resolved = resolve(Stated(remaining_s=3.0, grace_s=2.0), ONE_SECOND, 0.0)
        assert (resolved.deadline_at, resolved.expires_at) == (1.0, 3.0)

    def test_and_no_longer_than_it_says(self):
        resolved = resolve(Stated(remaining_s=30.0, grace_s=2.0), ONE_SECOND, 0.0)
        assert (resolved.deadline_at, resolved.expires_at) == (1.0, 3.0)

    def test_nor_than_the_service_grants(self):
        policy = Policy(max_slo_s=1.0, max_grace_s=0.5)
        resolved = resolve(Stated(remaining_s=30.0, grace_s=2.0), policy, 0.0)
        assert (resolved.deadline_at, resolved.expires_at) == (1.0, 1.5)
        resolved = resolve(Stated(remaining_s=2.5, grace_s=2.0), policy, 0.0)
        assert (resolved.deadline_at, resolved.expires_at) == (0.5, 1.0)

    def test_with_nothing_left_of_the_upload_it_is_late_from_the_start(self):
        resolved = resolve(Stated(remaining_s=1.5, grace_s=2.0), ONE_SECOND, 0.0)
        assert (resolved.deadline_at, resolved.expires_at) == (-0.5, 1.5)


seconds = st.floats(-5.0, 100.0)
durations = st.floats(0.0, 100.0)


@given(
    stated=st.builds(Stated, st.none() | seconds, st.none() | seconds, durations),
    policy=st.builds(
        Policy, st.floats(0.001, 60.0), durations, st.floats(0.0, 0.1), st.booleans(), durations
    ),
    received_at=st.floats(0.0, 1e6),
)
def test_invariants(stated, policy, received_at):
    resolved = resolve(stated, policy, received_at)
    rounding = 1e-9 * (1 + received_at)
    assert resolved.deadline_at <= resolved.expires_at
    assert resolved.deadline_at <= resolved.rank_at
    assert resolved.expires_at <= resolved.deadline_at + stated.grace_s + rounding
    if not policy.trust_client or stated.remaining_s is stated.budget_s is None:
        assert resolved.deadline_at <= received_at + policy.max_slo_s + rounding
    if stated.remaining_s is not None:
        assert resolved.deadline_at <= received_at + stated.remaining_s - policy.margin_s + rounding
        assert resolved.expires_at <= received_at + stated.remaining_s - policy.margin_s + rounding
    if stated.budget_s is not None:
        assert resolved.deadline_at <= received_at + stated.budget_s - policy.margin_s + rounding


@given(st.floats(0.0, 10.0), st.floats(0.0, 10.0), durations)
def test_less_time_never_means_a_later_deadline(remaining_s, less_s, grace_s):
    more = resolve(Stated(remaining_s, grace_s=grace_s), ONE_SECOND, 0.0)
    less = resolve(Stated(remaining_s - less_s, grace_s=grace_s), ONE_SECOND, 0.0)
    assert less.deadline_at <= more.deadline_at
    assert less.expires_at <= more.expires_at
