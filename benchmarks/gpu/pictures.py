"""Pictures of a run on a GPU, beside its results, in the manner of benchmarks/plots.py."""

from pathlib import Path
from typing import Any

from fusedmlp.benchmarks import plots
from fusedmlp.benchmarks.explore.notebook import Row, row_of

# A picture for each section and unit that has rows named "subject: variant".
PICTURES = {
    "trainings": ("trainings", "µs a step"),
    "ratios": ("trainings", "times ours as planned"),
    "kernels": ("kernels", "µs"),
    "bandwidth": ("kernels", "TB/s"),
    "flop": ("kernels", "TFLOP/s"),
}


def draw(results: dict[str, Any], stem: Path) -> list[Path]:
    from matplotlib.figure import Figure

    written: list[Path] = []
    for name, (section, unit) in PICTURES.items():
        rows = [
            row
            for row in map(row_of, results["rows"])
            if (row.section, row.unit, row.status) == (section, unit, "measured")
        ]
        if not rows:
            continue
        subjects = list(dict.fromkeys(row.name.partition(": ")[0] for row in rows))
        figure = Figure(figsize=(9, 1.5 + 0.35 * len(rows)), layout="constrained")
        bars(figure.subplots(), rows, subjects, unit)
        figure.suptitle(results["device"], fontsize=9)
        written += plots.save(figure, stem, name)
    return written


def bars(axes: Any, rows: list[Row], subjects: list[str], unit: str) -> None:
    """A bar for each variant, those of one subject together, with the 20th and the 80th percentile."""
    variants = list(dict.fromkeys(row.name.partition(": ")[2] for row in rows))
    places, at, before = [], 0.0, ""
    for row in sorted(rows, key=lambda row: subjects.index(row.name.partition(": ")[0])):
        subject, _, variant = row.name.partition(": ")
        at, before = at + (1.0 if subject == before else 1.6), subject
        spread = row.spread
        assert spread is not None
        error = [[spread.p50 - spread.p20], [spread.p80 - spread.p50]]
        axes.barh(at, spread.p50, 0.8, xerr=error, color=f"C{variants.index(variant) % 10}")
        places.append((at, f"{subject}: {variant}"))
    axes.set_yticks([at for at, _ in places], [name for _, name in places], fontsize=6)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(unit)
