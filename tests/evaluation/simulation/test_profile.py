"""Profiles of both formats, and the truths made of them."""

import pytest

from controlplane.profiled import Times
from evaluation.paper import Point
from evaluation.simulation.profile import ProfileError, Truth, cheapest_batch, read, read_authors_times
from tests.evaluation.simulation.scenarios import PROFILE


def test_both_formats_say_the_same(tmp_path):
    authors, own = tmp_path / "authors.csv", tmp_path / "own.csv"
    authors.write_text(
        "model_variant,max_batch_size,cpu_request,model_latencies_p99\nm,1,1,0.1\nm,2,1,0.15\n"
    )
    own.write_text("rows,threads,mean_ms,p99_ms\n1,1,90,100\n2,1,140,150\n")
    assert read(authors) == read(own)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n", "expected the columns"),
        ("# model: m\nrows,threads,p99_ms\n\n1,1,x\n", "line 4: p99_ms: expected a number above 0, got 'x'"),
        ("rows,threads,p99_ms\n1,1,5\n2,2,5\n", "a batch of 1 on 2 is missing"),
        ("rows,threads,p99_ms\n2,2,5\n", "a batch of 1 on 1 is missing"),
        ("rows,threads,p99_ms\n", "a batch of 1 on 1 is missing"),
        ("rows,threads,p99_ms\n1,1,5\n2,1,0\n", "line 3: p99_ms: expected a number above 0, got '0'"),
        ("rows,threads,p99_ms\n1,1,5\n2,1,nan\n", "line 3: p99_ms: expected a number above 0, got 'nan'"),
        ("rows,threads,p99_ms\n1,1,5\n0,1,5\n", "line 3: rows: expected a whole number from 1 on, got '0'"),
        ("rows,threads,p99_ms\n1,1.5,5\n", "line 2: threads: expected a whole number from 1 on, got '1.5'"),
        ("rows,threads,p99_ms\n1\n", "line 2: threads: expected a whole number from 1 on, got ''"),
        ("rows,threads,p99_ms\n1,1,5\n# twice\n1,1,5\n", "line 4: the same batch and cores as in line 2"),
        ("", "expected the columns"),
    ],
)
def test_a_bad_profile_is_one_line(tmp_path, text, expected):
    path = tmp_path / "profile.csv"
    path.write_text(text)
    with pytest.raises(ProfileError, match=expected) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_authors_profile_as_a_whole(tmp_path):
    header = "max_batch_size,cpu_request,model_latencies_avg,model_latencies_p95,model_latencies_p99\n"
    path = tmp_path / "authors.csv"
    path.write_text(f"{header}1,1,0.1,0.11,0.12\n2,1,0.15,0.16,0.17\n")
    assert read_authors_times(path) == {
        (1, 1): Times(0.1, 0.1, 0.11, 0.12),
        (2, 1): Times(0.15, 0.15, 0.16, 0.17),
    }
    path.write_text(f"{header}1,1,0.1,0.11,0.105\n")
    with pytest.raises(ProfileError, match="a batch of 1 on 1: expected average, p95 and p99"):
        read_authors_times(path)
    path.write_text("max_batch_size,cpu_request,model_latencies_p99\n1,1,0.1\n")
    with pytest.raises(ProfileError, match="model_latencies_avg"):
        read_authors_times(path)


def test_a_profile_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "profile.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="expected a text file"):
        read(path)


def test_a_grid_is_met_and_between_it_straight():
    truth = Truth.grid(PROFILE, max_threads=16, max_rows=6)
    assert truth.seconds(1, 1) == pytest.approx(0.1)
    assert truth.seconds(4, 8) == pytest.approx(0.12)
    assert truth.seconds(3, 1) == pytest.approx(0.3)
    assert truth.seconds(1, 3) == pytest.approx((0.06 + 0.04) / 2)
    assert truth.seconds(1, 16) == truth.seconds(1, 8)
    assert truth.seconds(6, 1) == pytest.approx(0.6)


def test_a_fit_is_the_papers():
    truth = Truth.fit(PROFILE, max_threads=5, max_rows=3)
    assert truth.seconds(3, 5) == pytest.approx(3 * (0.02 + 0.08 / 5))


def test_a_fit_below_zero_is_refused():
    # A fifth of a core's time on two cores: the line through both is below zero from three on.
    steep = [Point(b, c, 100.0 * b * (1 if c == 1 else 0.2)) for b in (1, 2) for c in (1, 2)]
    with pytest.raises(ProfileError, match="negative"):
        Truth.fit(steep, max_threads=8, max_rows=2)


def test_extremes_of_a_truth():
    truth = Truth.grid(PROFILE, max_threads=8, max_rows=4)
    assert truth.fastest_s == pytest.approx(0.03)
    assert truth.cheapest_row_s == pytest.approx(0.1)
    assert cheapest_batch(PROFILE, 4) == 1
