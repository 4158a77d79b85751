"""Pictures of a run, beside its results, as PNG and SVG; needs matplotlib."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusedmlp.benchmarks.cases import SWEEPS, SWEPT
from fusedmlp.benchmarks.report import TITLES, best, rows_of

PEERS = {"ours": "fusedmlp"} | TITLES


def available() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(results: dict[str, Any], stem: Path) -> list[Path]:
    """Draw what the results hold: ratio bars, and time per step over width and over batch."""
    from matplotlib.figure import Figure

    written: list[Path] = []
    for optimizer in dict.fromkeys(work["optimizer"] for work in results["cases"]):
        for name, paint in (("ratios", ratios), *((sweep, lines(sweep)) for sweep in SWEEPS)):
            figure = Figure(figsize=(7, 4), layout="constrained")
            axes = figure.subplots()
            if not paint(axes, results, optimizer):
                continue
            axes.set_title(f"{optimizer}: {results['device']}, {results['threads']} threads", fontsize=9)
            axes.legend(fontsize=8)
            written += save(figure, stem, f"{name}-{optimizer}")
    return written


def save(figure: Any, stem: Path, name: str) -> list[Path]:
    """As PNG and SVG, named by the results' stem."""
    files = [stem.with_name(f"{stem.name}-{name}.{suffix}") for suffix in ("png", "svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    return files


def ratios(axes: Any, results: dict[str, Any], optimizer: str) -> bool:
    """Each peer's best time over ours, a group of bars for each case; whether there was anything to draw."""
    works = [w["case"] for w in results["cases"] if w["optimizer"] == optimizer and w["case"] not in SWEPT]
    drawn = False
    for number, peer in enumerate(TITLES):
        for place, case in enumerate(works):
            row = best(rows_of(results, case, optimizer, peer))
            if row is None or row["ratio"] is None:
                continue
            ratio = row["ratio"]
            error = [[ratio["p50"] - ratio["p20"]], [ratio["p80"] - ratio["p50"]]]
            at = place + 0.27 * (number - 1)
            axes.bar(at, ratio["p50"], 0.25, yerr=error, color=f"C{number + 1}")
            drawn = True
        axes.bar(0, 0, color=f"C{number + 1}", label=PEERS[peer])
    axes.axhline(1, color="C0", label=PEERS["ours"])
    axes.set_yscale("log")
    axes.set_xticks(range(len(works)), works)
    axes.set_ylabel("time over ours")
    return drawn


def lines(sweep: str) -> Callable[[Any, dict[str, Any], str], bool]:
    """A painter of each peer's best time per step over the sweep's numbers, with the FMA floor."""

    def paint(axes: Any, results: dict[str, Any], optimizer: str) -> bool:
        numbers = {case.name: int(case.name.rpartition("-")[2]) for case in SWEEPS[sweep]}
        works = [w for w in results["cases"] if w["optimizer"] == optimizer and w["case"] in numbers]
        for color, (peer, title) in enumerate(PEERS.items()):
            rows = [best(rows_of(results, work["case"], optimizer, peer)) for work in works]
            points = [(numbers[row["case"]], row["seconds"]["p50"] * 1e6) for row in rows if row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", color=f"C{color}", label=title)
        floors = [(numbers[work["case"]], work["compute_floor"] * 1e6) for work in works]
        if floors:
            axes.plot(*zip(*floors, strict=True), linestyle=":", color="gray", label="FMA floor")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(sweep)
        axes.set_ylabel("time per step, µs")
        return bool(works)

    return paint
