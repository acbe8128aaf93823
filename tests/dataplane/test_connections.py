"""Header delay: what is charged, what is called uncertain, what is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.connections import Connections

PEER = "ipv4:10.0.0.1:5000"
EPOCH = -1e6  # the client's clock minus ours


def sent(at):
    """What a client's clock shows at our time `at`."""
    return at + EPOCH


def test_the_first_header_of_a_connection_is_the_measure():
    connections = Connections()
    header = connections.header(PEER, sent(1.0), 1.05)
    assert (header.delay_s, header.uncertain) == (0.0, False)


def test_a_header_behind_another_body_is_charged_for_the_wait():
    connections = Connections()
    connections.header(PEER, sent(1.0), 1.05)
    header = connections.header(PEER, sent(1.1), 2.25)
    assert header.delay_s == pytest.approx(1.10)
    assert not header.uncertain


def test_the_measure_improves():
    connections = Connections()
    connections.header(PEER, sent(1.0), 1.5)
    assert connections.header(PEER, sent(2.0), 2.1).delay_s == 0.0
    assert connections.header(PEER, sent(3.0), 3.5).delay_s == pytest.approx(0.4)


def test_connections_have_clocks_of_their_own():
    connections = Connections()
    connections.header(PEER, sent(1.0), 1.0)
    assert connections.header("other", 5e5, 2.0).delay_s == 0.0


def test_without_a_word_it_is_uncertain_while_another_upload_is_under_way():
    connections = Connections()
    first = connections.header(PEER, None, 1.0)
    assert not first.uncertain
    assert connections.header(PEER, None, 1.5).uncertain
    assert not connections.header("other", None, 1.5).uncertain


def test_and_right_after_its_end():
    connections = Connections()
    first = connections.header(PEER, None, 1.0)
    connections.complete(PEER, first.upload, 2.0)
    assert connections.header(PEER, None, 2.001).uncertain
    later = Connections()
    first = later.header(PEER, None, 1.0)
    later.complete(PEER, first.upload, 2.0)
    assert not later.header(PEER, None, 3.0).uncertain


def test_short_uploads_hold_nobody_up():
    connections = Connections()
    first = connections.header(PEER, None, 1.0)
    connections.complete(PEER, first.upload, 1.005)
    assert not connections.header(PEER, None, 1.006).uncertain


def test_a_time_of_sending_says_nothing_before_there_is_a_measure():
    connections = Connections()
    connections.header(PEER, None, 1.0)
    assert connections.header(PEER, sent(1.1), 2.0).uncertain


def test_a_header_that_nothing_held_up_is_charged_for_nothing():
    connections = Connections()
    header = connections.header(PEER, sent(1.0), 1.05)
    connections.complete(PEER, header.upload, 1.06)
    assert connections.header(PEER, sent(2.0), 2.3).delay_s == 0.0


def test_nor_for_more_than_the_upload_ahead_of_it_took():
    connections = Connections()
    connections.header(PEER, sent(1.0), 1.0)
    header = connections.header(PEER, sent(1.0), 1.4)
    assert header.delay_s == pytest.approx(0.4)
    later = Connections()
    first = later.header(PEER, sent(1.0), 1.0)
    later.complete(PEER, first.upload, 2.0)
    assert later.header(PEER, sent(0.9), 2.05).delay_s == pytest.approx(1.05)


def test_one_behind_many_is_charged_for_them_all():
    connections = Connections()
    uploads = []
    for behind, at in enumerate((1.0, 2.0, 3.0, 4.0)):
        if uploads:
            connections.complete(PEER, uploads[-1], at - 0.001)
        header = connections.header(PEER, sent(1.0), at)
        assert (header.delay_s, header.uncertain) == (pytest.approx(behind), False)
        uploads.append(header.upload)


def test_clients_behind_one_proxy_have_clocks_of_their_own():
    connections = Connections()
    for at, sent_s in ((5000.0, 1000.0), (5001.0, 400.0), (5002.0, 999.0), (5003.0, 1003.0), (5004.0, 404.0)):
        header = connections.header(PEER, sent_s, at)
        assert (header.delay_s, header.uncertain) == (0.0, False)
        connections.complete(PEER, header.upload, at + 0.001)
    connections.header(PEER, 1010.0, 5010.0)
    behind = connections.header(PEER, 411.0, 5012.0)
    assert (behind.delay_s, behind.uncertain) == (0.0, True)


def test_clocks_that_drift_are_charged_for_no_more_than_two_minutes_of_it():
    connections = Connections()
    delays = []
    connections.header(PEER, None, 0.0)  # an upload that never ends
    for second in range(1, 36_000):
        now = float(second)
        header = connections.header(PEER, sent(now) - now * 1e-4, now)
        connections.complete(PEER, header.upload, now)
        delays.append(header.delay_s)
    assert max(delays) <= 122 * 1e-4


def test_old_connections_are_forgotten():
    connections = Connections()
    for number in range(20_000):
        connections.header(str(number), None, 1.0)
    assert len(connections._connections) == 10_000
    connections.complete("0", 1, 2.0)


@given(st.lists(st.tuples(st.floats(0, 10), st.none() | st.floats(0, 10)), max_size=20))
def test_nobody_is_ever_credited_with_time(headers):
    connections = Connections()
    for now, sent_s in sorted(headers, key=lambda header: header[0]):
        assert connections.header(PEER, sent_s, now).delay_s >= 0.0
