"""Clients that misbehave, a few of each; `make fuzz` has thousands."""

import pytest

from tests.fuzz import abuse, target


@pytest.fixture(scope="module")
def spinner(tmp_path_factory):
    with target.spinner(tmp_path_factory.mktemp("spinner")) as worker:
        yield worker


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    with target.echo(tmp_path_factory.mktemp("echo")) as worker:
        yield worker


def test_many_calls_at_once(spinner):
    """More than may wait."""
    told = abuse.crowd(spinner, 2000)
    assert "2000 calls at once" in told


def test_slow_readers(echo):
    abuse.slow_readers(echo, 20)


def test_half_open_connections(spinner):
    abuse.half_open(spinner, 5)


def test_clients_that_vanish(spinner):
    abuse.vanishing(spinner, 5)


def test_a_client_that_is_killed(spinner):
    abuse.killed(spinner, 10)
