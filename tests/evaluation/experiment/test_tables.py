"""Tables of scores made by hand."""

from evaluation.experiment.tables import TABLES
from evaluation.experiment.trial import Trial
from tests.evaluation.experiment.trials import score, trial

TRIALS = [
    trial({"sponge": (3.0, 0), "bound": (2.0, 0)}, log="a", demand="calm"),
    trial({"sponge": (6.0, 10), "bound": (3.0, 0)}, log="b", demand="burst"),
]


def test_every_table_has_a_cell_for_every_column():
    for table in (of(TRIALS) for of in TABLES.values()):
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_scores_have_a_row_for_each_case_and_policy():
    table = TABLES["scores"](TRIALS)
    assert [row[:3] for row in table.rows] == [
        ("a", "calm", "sponge"),
        ("a", "calm", "bound"),
        ("b", "burst", "sponge"),
        ("b", "burst", "bound"),
    ]
    assert table.rows[2][table.columns.index("core-s per on time")] == 0.6


def test_policies_are_summed_up_over_cases():
    table = TABLES["policies"](TRIALS)
    assert table.rows[0] == ("sponge", 4.5, 1.75, 10, 1.0, 1, None, 0.45)
    assert table.rows[1] == ("bound", 2.5, 1.0, 0, 0.0, 2, None, 0.25)


def test_variants_are_compared_with_the_first_over_cases():
    table = TABLES["variants"](TRIALS)
    assert [row[0] for row in table.rows] == ["sponge", "bound"]
    more, misses = table.rows[1][2], table.rows[0][3:5]
    assert more == round(100 * (5 / 9 - 1), 4)
    assert misses == (10, "0, 10")
    assert table.note == "Cases: a calm, b burst."


def test_cases_have_cores_and_misses_side_by_side():
    assert TABLES["cases"](TRIALS).rows[1] == ("b", "burst", 1000, "6.00 (10)", "3.00 (0)")


def test_tight_requests_are_told_where_there_are_any():
    some = Trial(
        TRIALS[0].case, {"sponge": score("sponge", tight=8, tight_on_time=6), "bound": score("bound")}
    )
    assert TABLES["tight"]([TRIALS[1], some]).rows == [("a", "calm", 8, 6)]
