"""When the first of a batch waits for others."""

from dataplane.linger import Linger


def turns(linger, joins=()):
    """Turns that what is queued waits, if requests join before the turns of these numbers."""
    linger.arrived()
    count = 0
    while linger.waits():
        count += 1
        if count in joins:
            linger.arrived()
    return count


def test_it_waits_until_nothing_has_come_for_a_while():
    quiet = turns(Linger())
    assert quiet > 0
    assert turns(Linger(), joins=(2, 5)) == 5 + quiet


def test_requests_that_come_one_by_one_do_not_wait_but_for_a_probe_now_and_then():
    linger = Linger()
    waited = [turns(linger) > 0 for _ in range(200)]
    assert all(waited[:8])
    assert 0 < sum(waited[-64:]) <= 4


def test_company_brings_waiting_back():
    linger = Linger()
    for _ in range(100):
        turns(linger)
    waited = [turns(linger, joins=(1,)) > 0 for _ in range(200)]
    assert all(waited[-100:])


def test_an_execution_that_need_not_wait_ends_it():
    linger = Linger()
    linger.arrived()
    linger.end()
    assert not linger.waits()
