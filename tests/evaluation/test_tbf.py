from hypothesis import given
from hypothesis import strategies as st

from evaluation import tbf
from evaluation.bandwidth import BandwidthTrace

UNEVEN = BandwidthTrace((0.7, 0.5, 0.3, 0.9), (400e3, 1.2e6, 0.0, 250e3))
# Of a full packet, this share is upload.
SHARE = (tbf.MTU - 52) / tbf.FRAME_BYTES


def passed(turns: list[float], until_s: float) -> float:
    """Bytes of upload that the kernel lets through by until_s if the buckets are turned at these times."""
    bucket, frames = tbf.Bucket(UNEVEN, turns[0]), 0.0
    for now, after in zip(turns, [*turns[1:], until_s], strict=True):
        new, ballast = bucket.turn(now)
        frames += new.burst_bytes + new.bytes_per_s * (after - now) - ballast * tbf.FRAME_BYTES
    return frames * SHARE


def test_headers_are_granted_on_top():
    assert tbf.setting(1e6).bytes_per_s == round(1e6 / SHARE)


def test_zero_is_one_packet_and_then_nothing_for_a_minute():
    plug = tbf.setting(0.0)
    assert plug.burst_bytes == tbf.FRAME_BYTES
    assert 0 < plug.bytes_per_s * 60 < tbf.FRAME_BYTES


def test_ballast_empties_a_bucket_that_the_kernel_has_filled():
    new, ballast = tbf.Bucket(UNEVEN, 0.1).turn(0.1)
    assert ballast == round(new.burst_bytes / tbf.FRAME_BYTES)


def test_turned_late_a_link_makes_up_for_what_it_missed():
    # A millisecond late after 0.3 s of nothing; then 5 ms late before it falls to nothing.
    assert abs(passed([1.2, 1.501], 2.0) - UNEVEN.delivered(1.2, 2.0)) < tbf.FRAME_BYTES
    assert abs(passed([0.75, 1.205, 1.5], 2.0) - UNEVEN.delivered(0.75, 2.0)) < tbf.FRAME_BYTES


@given(st.floats(0, 2.4), st.integers(1, 8))
def test_turned_at_every_change_a_bucket_grants_what_the_trace_carries(start_s, changes):
    turns = [start_s]
    for _ in range(changes):
        turns.append(UNEVEN.next_change(turns[-1]))
    until_s = UNEVEN.next_change(turns[-1])
    assert abs(passed(turns, until_s) - UNEVEN.delivered(start_s, until_s)) < tbf.FRAME_BYTES
