"""Pictures of a run, beside its results, as PNG and SVG; needs matplotlib."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusedmlp.benchmarks.cases import SWEEPS, SWEPT
from fusedmlp.benchmarks.report import TITLES, best, leader, rows_of

# Colours of Okabe and Ito, which the colour-blind can tell apart, and marks for who prints in grey.
STYLES = {
    "ours": {"label": "fusedmlp", "color": "#0072b2", "marker": "o"},
    "pytorch": {"label": TITLES["pytorch"], "color": "#d55e00", "marker": "s"},
    "jax": {"label": TITLES["jax"], "color": "#009e73", "marker": "^"},
    "sklearn": {"label": TITLES["sklearn"], "color": "#cc79a7", "marker": "D"},
}
SWEPT_OVER = {"width": "width of the hidden layer and of the input", "batch": "rows of a batch"}
Paint = Callable[[Any, dict[str, Any], str], bool]


def available() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(results: dict[str, Any], stem: Path) -> list[Path]:
    """Draw what the results hold: ratio bars, the roofline, time per step over width and over batch."""
    from matplotlib.figure import Figure

    written: list[Path] = []
    paints: dict[str, Paint] = {"ratios": ratios, "roofline": roofline}
    paints |= {sweep: lines(sweep) for sweep in SWEEPS}
    for optimizer in dict.fromkeys(work["optimizer"] for work in results["cases"]):
        for name, paint in paints.items():
            figure = Figure(figsize=(7, 4.2), layout="constrained", facecolor="white")
            axes = figure.subplots()
            if not paint(axes, results, optimizer):
                continue
            axes.set_title(f"{optimizer}: {results['device']}, {results['threads']} threads", fontsize=9)
            axes.grid(True, which="major", color="#e0e0e0", linewidth=0.6)
            axes.set_axisbelow(True)
            figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
            written += save(figure, stem, f"{name}-{optimizer}")
    return written


def save(figure: Any, stem: Path, name: str) -> list[Path]:
    """As PNG and SVG, named by the results' stem."""
    files = [stem.with_name(f"{stem.name}-{name}.{suffix}") for suffix in ("png", "svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    return files


def works_of(results: dict[str, Any], optimizer: str) -> list[dict[str, Any]]:
    """The cases of an optimizer that are no points of a sweep."""
    return [work for work in results["cases"] if work["optimizer"] == optimizer and work["case"] not in SWEPT]


def ratios(axes: Any, results: dict[str, Any], optimizer: str) -> bool:
    """Each peer's best time over ours, a group of bars for each case; whether there was anything to draw."""
    works = works_of(results, optimizer)
    for number, peer in enumerate(TITLES):
        bars = []
        for place, work in enumerate(works):
            row = best(rows_of(results, work["case"], optimizer, peer))
            if row and row["ratio"]:
                bars.append((place + 0.27 * (number - 1), row["ratio"]))
        if bars:
            middle = [ratio["p50"] for _, ratio in bars]
            below = [ratio["p50"] - ratio["p20"] for _, ratio in bars]
            above = [ratio["p80"] - ratio["p50"] for _, ratio in bars]
            style = {key: STYLES[peer][key] for key in ("label", "color")}
            axes.bar([at for at, _ in bars], middle, 0.25, yerr=[below, above], ecolor="#444444", **style)
    axes.axhline(1, color=STYLES["ours"]["color"], label=STYLES["ours"]["label"])
    axes.set_yscale("log")
    axes.set_xticks(range(len(works)), [work["case"] for work in works])
    axes.set_ylabel("time over ours: above 1 ours is faster")
    return bool(axes.patches)


def roofline(axes: Any, results: dict[str, Any], optimizer: str) -> bool:
    """FLOP/s over FLOP a byte, ours and the best peer's, below what the machine was measured to reach."""
    works = sorted(works_of(results, optimizer), key=lambda work: work["flop"] / work["bytes"])
    limits = results["limits"]
    points: dict[str, list[tuple[float, float]]] = {"ours": [], "best peer": []}
    labels = []
    for work in works:
        intensity = work["flop"] / work["bytes"]
        rows = {
            "ours": best(rows_of(results, work["case"], optimizer, "ours")),
            "best peer": leader(results, work["case"], optimizer),
        }
        reached = [work["flop"] / row["seconds"]["p50"] * 1e-9 for row in rows.values() if row]
        for who, row in rows.items():
            if row:
                points[who].append((intensity, work["flop"] / row["seconds"]["p50"] * 1e-9))
        if reached:
            labels.append((work["case"], intensity, min(reached)))
    if not labels:
        return False
    ridge = limits["flop_per_second"] / limits["bytes_per_second"]
    ends = [min(labels[0][1], ridge) / 3, ridge, max(labels[-1][1], ridge) * 3]
    roof = [min(limits["flop_per_second"], limits["bytes_per_second"] * at) * 1e-9 for at in ends]
    axes.plot(ends, roof, color="#444444", linewidth=1.5, label="FMA rate, copy bandwidth")
    styles = {"ours": STYLES["ours"], "best peer": {"label": "best peer", "color": "#d55e00", "marker": "s"}}
    for who, found in points.items():
        if found:
            axes.plot(*zip(*found, strict=True), linestyle="", fillstyle="none", markeredgewidth=1.6, **styles[who])
    # Below the lower point, and aslant: neighbours on the axis may be close.
    style = {"ha": "right", "va": "top", "rotation": 45, "rotation_mode": "anchor", "fontsize": 8}
    for case, intensity, lower in labels:
        axes.annotate(case, (intensity, lower), (2, -8), textcoords="offset points", **style)
    axes.margins(y=0.15)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP a byte of batch, parameters and optimizer state")
    axes.set_ylabel("GFLOP/s")
    return True


def lines(sweep: str) -> Paint:
    """A painter of each peer's best time per step over the sweep's numbers, with the FMA floor."""

    def paint(axes: Any, results: dict[str, Any], optimizer: str) -> bool:
        numbers = {case.name: int(case.name.rpartition("-")[2]) for case in SWEEPS[sweep]}
        works = [w for w in results["cases"] if w["optimizer"] == optimizer and w["case"] in numbers]
        for peer, style in STYLES.items():
            rows = [best(rows_of(results, work["case"], optimizer, peer)) for work in works]
            points = [(numbers[row["case"]], row["seconds"]["p50"] * 1e6) for row in rows if row]
            if points:
                axes.plot(*zip(*points, strict=True), **style)
        floors = [(numbers[work["case"]], work["compute_floor"] * 1e6) for work in works]
        if floors:
            axes.plot(*zip(*floors, strict=True), linestyle=":", color="#666666", label="FMA floor")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks([number for number, _ in floors], [str(number) for number, _ in floors])
        axes.set_xlabel(SWEPT_OVER[sweep])
        axes.set_ylabel("time per step, µs")
        return bool(floors)

    return paint
