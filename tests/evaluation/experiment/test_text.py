"""Findings in the terminal, and the numbers in them."""

import math

import pytest

from evaluation.experiment import cells, text
from evaluation.experiment.finding import Cell, Table
from tests.evaluation.experiment import findings


def column(*numbers: Cell) -> list[str]:
    table = Table(title="", columns=("n",), rows=[(number,) for number in numbers])
    return [cell for (cell,) in cells.written(table).rows]


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        ([3.012, 12.625, 16.0], ["3.01", "12.62", "16.00"]),
        ([0.85, 1.2, 15.3], ["0.85", "1.20", "15.30"]),
        ([0.0123, 0.5], ["0.012", "0.500"]),
        ([0.2194, 0.8], ["0.219", "0.800"]),
        ([5123.4, 812.0], ["5,123", "812"]),
        ([12.6, 0.0004], ["12.6", "0.00040"]),
        ([412.3, 0.85], ["412", "0.85"]),
        ([-3.012, 0.0], ["-3.01", "0"]),
        ([6000, 0.5, 12], ["6,000", "0.500", "12"]),
        ([math.inf, -math.inf, math.nan, None], ["∞", "-∞", "–", "–"]),
        (["4 × 1", None], ["4 × 1", "–"]),
    ],
)
def test_a_column_has_the_digits_that_tell_its_numbers_apart(numbers: list[Cell], written: list[str]) -> None:
    assert column(*numbers) == written


def test_numbers_stand_right_and_words_left() -> None:
    assert cells.written(findings.SUMMARY).right == [False, True, True, True, True]


def test_a_finding_is_told_whole() -> None:
    assert text.render(findings.demand()) == (
        "Varying demand\n"
        "\n"
        "How many cores does demand that varies need?\n"
        "\n"
        "Summary\n"
        "policy           cores  avoidable misses, %  requests  resizes\n"
        "───────────────  ─────  ───────────────────  ────────  ───────\n"
        "sponge            3.60              0.00080    12,000       41\n"
        "static-best       4.00                    0    12,000        –\n"
        "usage-nt <90 %>  12.62                 1.25    12,000        7\n"
        "Medians & spread.\n"
        "\n"
        "By log\n"
        "log\n"
        "─────\n"
        "bus|1\n"
        "–\n"
        "\n"
        "Goals\n"
        "goal                     measured  kept\n"
        "───────────────────────  ────────  ───────\n"
        "cores ≤ 1.30 × bound     1.21      met\n"
        "cores ≤ 0.85 × usage-nt  0.91      not met\n"
        "\n"
        "It loses where budgets are short & demand is flat."
    )


def test_a_finding_without_tables_is_its_question() -> None:
    assert text.render(findings.paper()) == "The paper's evaluation\n\nWhat is left of the paper's gain?"
