"""What a soak is judged by, of looks that were made up."""

import pytest

from evaluation.faults.soak import Look, Watched, growth, judge

SECONDS = 60.0


def watched(rss: float = 1.0, threads: int = 0, workers: tuple[int, ...] = (2,), overdue: int = 0) -> Watched:
    """Looks once a second, in the last sixth of which memory is `rss` times as much and there are more threads."""
    looks = [
        Look(float(at), int(1e8 * (rss if at >= 50 else 1.0)), 20 + (threads if at >= 50 else 0), 40)
        for at in range(60)
    ]
    return Watched({"vision": looks}, set(workers), overdue, [], models=2, cells=10)


def test_what_stays_as_it_is_is_kept() -> None:
    assert judge(watched(), SECONDS, 16, "").broken == []
    assert judge(watched(threads=3), SECONDS, 16, "").broken == []


@pytest.mark.parametrize(
    ("seen", "broken"),
    [
        (watched(rss=1.04), "memory of vision within 3% of that when warm: +4.0%"),
        (watched(threads=4), "at most 3 threads of vision more: +4"),
        (watched(workers=(1, 2)), "as many workers all the time: [1, 2]"),
        (watched(overdue=1), "no allocation acknowledged late: 1 times"),
    ],
)
def test_what_grows_is_not(seen: Watched, broken: str) -> None:
    assert [text.startswith(broken) for text in judge(seen, SECONDS, 16, "").broken] == [True]


def test_more_sizes_than_there_can_be_are_drift() -> None:
    assert judge(watched(), SECONDS, 9, "").broken == ["what is learned stays bounded: 10 sizes of 2 models"]


def test_what_comes_before_it_is_warm_does_not_count() -> None:
    assert growth([5, 1, 1], [10.0, 25.0, 55.0], SECONDS) == 0.0
    with pytest.raises(ValueError, match="expected readings after 20 s"):
        growth([5], [10.0], SECONDS)
