"""Blocks of findings in a document written by hand."""

import pytest

from evaluation.experiment import markdown
from evaluation.experiment.markdown import MarkerError
from tests.evaluation.experiment import findings

FINDINGS = (findings.paper(), findings.demand())

DOCUMENT = """# Title

Prose stays | as *it* is.

<!-- finding: demand/Summary -->
whatever stood here
<!-- end -->

More.
<!-- finding: demand/Goals -->
<!-- end -->
<!-- finding: demand/By log -->
<!-- end -->
<!-- finding: demand/Notes -->
<!-- end -->
<!-- finding: demand/Settings -->
<!-- end -->
"""

UPDATED = r"""# Title

Prose stays | as *it* is.

<!-- finding: demand/Summary -->

| policy | cores | avoidable misses, % | requests | resizes |
| --- | ---: | ---: | ---: | ---: |
| sponge | 3.60 | 0.00080 | 12,000 | 41 |
| static-best | 4.00 | 0 | 12,000 | – |
| usage-nt \<90 %> | 12.62 | 1.25 | 12,000 | 7 |

Medians & spread.

<!-- end -->

More.
<!-- finding: demand/Goals -->

| goal | measured | kept |
| --- | --- | --- |
| cores ≤ 1.30 × bound | 1.21 | met |
| cores ≤ 0.85 × usage-nt | 0.91 | not met |

<!-- end -->
<!-- finding: demand/By log -->

| log |
| --- |
| bus\|1 |
| – |

<!-- end -->
<!-- finding: demand/Notes -->

- It loses where budgets are short & demand is flat.

<!-- end -->
<!-- finding: demand/Settings -->

- `sponge experiment demand --seed 1`
- machine: 2 CPUs \<x86_64>
- seeds: 1, 2, 3

<!-- end -->
"""


def test_blocks_are_rewritten_and_prose_is_not() -> None:
    assert markdown.update(DOCUMENT, FINDINGS) == UPDATED
    assert markdown.update(UPDATED, FINDINGS) == UPDATED


def test_a_document_without_blocks_stays_as_it_is() -> None:
    assert markdown.update("# Title\n\nProse.\n", FINDINGS) == "# Title\n\nProse.\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\n<!-- finding: nothing/Goals -->\n<!-- end -->", "2: nothing: expected one of paper, demand"),
        (
            "<!-- finding: demand/Cores -->\n<!-- end -->",
            "1: demand/Cores: expected one of Summary, By log, Goals, Notes, Settings",
        ),
        ("<!-- finding: paper/Goals -->\n<!-- end -->", "1: paper/Goals: expected one of Settings"),
        ("<!-- finding: demand/Goals -->\n\nprose", "1: expected <!-- end --> further down"),
        ("<!-- finding: demand/Goals -->\n<!-- finding: demand/Notes -->\n<!-- end -->", "2: expected"),
        ("prose\n<!-- end -->", "2: expected"),
        ("<!-- finding: demand -->\n<!-- end -->", "1: expected"),
        ("<!--finding: demand/Goals-->\n<!-- end -->", "1: expected"),
        (" <!-- finding: demand/Goals --> and more\n<!-- end -->", "1: expected"),
    ],
)
def test_a_marker_that_is_not_understood_is_named_by_its_line(text: str, error: str) -> None:
    with pytest.raises(MarkerError) as caught:
        markdown.update(text, FINDINGS)
    assert str(caught.value).startswith(error)
    assert "\n" not in str(caught.value)


def test_goals_cannot_be_left_out() -> None:
    assert markdown.untold("", FINDINGS) == ["paper", "demand/Goals"]
    summary = "<!-- finding: demand/Summary -->\n<!-- end -->\n"
    assert markdown.untold(summary, FINDINGS) == ["paper", "demand/Goals"]
    settings = "<!-- finding: paper/Settings -->\n<!-- end -->\n"
    assert markdown.untold(settings + summary.replace("Summary", "Goals"), FINDINGS) == []
