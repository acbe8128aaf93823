"""Made-up findings in which every kind of cell, goal and plot occurs."""

import base64
from pathlib import Path

from evaluation.experiment.finding import Finding, Goal, Plot, Table

# One grey pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)

SUMMARY = Table(
    title="Summary",
    columns=("policy", "cores", "avoidable misses, %", "requests", "resizes"),
    rows=(
        ("sponge", 3.6049, 0.0008, 12000, 41),
        ("static-best", 4.0, 0.0, 12000, None),
        ("usage-nt <90 %>", 12.625, 1.25, 12000, 7),
    ),
    note="Medians & spread.",
)


def demand() -> Finding:
    """With everything that a finding can have."""
    return Finding(
        experiment="demand",
        title="Varying demand",
        question="How many cores does demand that varies need?",
        command="sponge experiment demand --seed 1",
        settings={"machine": "2 CPUs <x86_64>", "seeds": "1, 2, 3"},
        tables=(SUMMARY, Table(title="By log", columns=("log",), rows=(("bus|1",), (None,)))),
        goals=(
            Goal(goal="cores ≤ 1.30 × bound", measured="1.21", met=True),
            Goal(goal="cores ≤ 0.85 × usage-nt", measured="0.91", met=False),
        ),
        plots=(Plot(file="demand-cores.png", caption="Cores <over> time"),),
        notes=("It loses where budgets are short & demand is flat.",),
    )


def paper() -> Finding:
    """With no more than it must have."""
    return Finding(
        experiment="paper",
        title="The paper's evaluation",
        question="What is left of the paper's gain?",
        command="sponge experiment paper",
        settings={},
        tables=(),
    )


def write(directory: Path) -> Path:
    """Write both, with the plot, and give the directory."""
    for finding in (demand(), paper()):
        finding.write(directory)
    (directory / "demand-cores.png").write_bytes(PNG)
    return directory
