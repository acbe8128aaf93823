"""A directory of findings, with the pictures that they name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.experiment.finding import Finding

# As docs/evaluation.md tells them, and then those of other pages; others follow by name.
_ORDER = (
    "paper",
    "demand",
    "price",
    "limits",
    "deadlines",
    "ablations",
    "sharing",
    "real",
    "costs",
    "cfs-period",
    "trust",
    "serving",
    "learning",
    "residuals",
    "planner",
    "monotony",
    "constants",
    "faults",
    "soak",
)


class ResultsError(ValueError):
    """Results that cannot be used; the text is one line."""


@dataclass(frozen=True, slots=True)
class Results:
    """Findings in the order in which they are told, and PNG files by the names that plots give them."""

    findings: Sequence[Finding]
    pictures: Mapping[str, bytes]

    @property
    def missing(self) -> list[str]:
        """The files that plots name and that are not there."""
        return [
            plot.file for finding in self.findings for plot in finding.plots if plot.file not in self.pictures
        ]


def read(directory: Path) -> Results:
    """Read every finding in `directory`; a picture may be missing. Raises ResultsError, and OSError."""
    if not directory.is_dir():
        raise ResultsError(f"{directory}: no such directory")
    findings = [_finding(path) for path in directory.glob("*.json")]
    if not findings:
        raise ResultsError(f"{directory}: no findings; `sponge experiment NAME` writes one")
    named = {plot.file for finding in findings for plot in finding.plots}
    return Results(
        sorted(findings, key=_place),
        {name: (directory / name).read_bytes() for name in sorted(named) if (directory / name).is_file()},
    )


def _finding(path: Path) -> Finding:
    try:
        finding = Finding.read(path)
    except ValueError as error:
        raise ResultsError(str(error)) from error
    if finding.experiment != path.stem:
        raise ResultsError(f"{path}: experiment: expected {path.stem!r}, as the file is named")
    return finding


def _place(finding: Finding) -> tuple[int, str]:
    name = finding.experiment
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)
