"""Tables from a run's results: Markdown, and the block of README between its two markers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

START = "<!-- benchmark:start -->"
END = "<!-- benchmark:end -->"
PEERS = ("pytorch", "jax", "sklearn")
TITLES = {"pytorch": "PyTorch", "jax": "JAX", "sklearn": "scikit-learn"}
Results = dict[str, Any]


def significant(number: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def microseconds(seconds: float) -> str:
    """In µs, with three significant digits."""
    return significant(seconds * 1e6)


def spread(value: dict[str, float], show: Callable[[float], str] = significant) -> str:
    """The median, and the percentiles around it."""
    return f"{show(value['p50'])} ({show(value['p20'])} to {show(value['p80'])})"


def rows_of(results: Results, case: str, optimizer: str, peer: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if (row["case"], row["optimizer"], row["peer"]) == (case, optimizer, peer)]


def best(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row with the least median time, of those that were timed."""
    timed = [row for row in rows if row["status"] == "timed"]
    return min(timed, key=lambda row: row["seconds"]["p50"], default=None)


def cell(rows: list[dict[str, Any]]) -> str:
    """The best mode's time in µs a step, or why there is none."""
    row = best(rows)
    if row is not None:
        mode = f" {row['mode']}" if row["peer"] != "ours" else ""
        return microseconds(row["seconds"]["p50"]) + mode
    return rows[0]["status"] if rows else ""


def verdict(results: Results, work: dict[str, Any], ratio: dict[str, float] | None) -> str:
    """The goal and whether it is met; a goal counts only where PyTorch and JAX were both timed."""
    if work["to_reach"] is None:
        return ""
    both = all(best(rows_of(results, work["case"], work["optimizer"], peer)) for peer in ("pytorch", "jax"))
    if ratio is None or not both:
        return f"{work['to_reach']:.2f}, not judged"
    return f"{work['to_reach']:.2f}, {'met' if ratio['p50'] >= work['to_reach'] else 'not met'}"


def training_table(results: Results) -> list[str]:
    """A line for each case and optimizer."""
    head = ["case", "sizes, batch, loss", "optimizer", "ours", *(TITLES[peer] for peer in PEERS)]
    head += ["floor: FMA, copy", "best peer's time over ours", "to reach"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for work in results["cases"]:
        name, optimizer = work["case"], work["optimizer"]
        by_peer = {peer: rows_of(results, name, optimizer, peer) for peer in ("ours", *PEERS)}
        leader = best([row for peer in PEERS for row in by_peer[peer]])
        ratio = leader["ratio"] if leader else None
        cells = [name, f"{'-'.join(map(str, work['sizes']))}, {work['batch']}, {work['loss']}", optimizer]
        cells += [cell(by_peer[peer]) for peer in ("ours", *PEERS)]
        cells.append(f"{microseconds(work['compute_floor'])}, {microseconds(work['traffic_floor'])}")
        cells += [spread(ratio) if ratio else "", verdict(results, work, ratio)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def startup_table(results: Results) -> list[str]:
    """A line for each start-up figure, in ms."""
    lines = ["| start-up | over its floor, ms | the floor, ms | at most, ms |", "|---|---|---|---|"]
    for row in results["startup"]:
        if row["status"] != "timed":
            lines.append(f"| {row['case']} | {row['status']}: {row['note']} | | {row['limit'] * 1e3:.0f} |")
            continue
        over = spread(row["seconds"], lambda seconds: f"{seconds * 1e3:.1f}")
        lines.append(f"| {row['case']} | {over} | {row['floor'] * 1e3:.0f} | {row['limit'] * 1e3:.0f} |")
    return lines


def notes(results: Results) -> list[str]:
    """What was missing or failed, or deserves a remark; one line for each peer, mode and note."""
    said: dict[str, list[str]] = {}
    for row in results["rows"]:
        if row["note"]:
            name = f"{row['peer']} {row['mode']}" if row["status"] != "missing" else row["peer"]
            place = f"{row['case']} {row['optimizer']}"
            said.setdefault(f"{name}, {row['status']}: {row['note']}", []).append(place)
    everywhere = len(results["cases"])
    return [
        f"- {text}" + ("" if len(set(places)) == everywhere else f" ({', '.join(places)})")
        for text, places in said.items()
    ]


def reach(limits: dict[str, float]) -> str:
    """The limits of the run, in words."""
    flop, copied = limits["flop_per_second"] / 1e9, limits["bytes_per_second"] / 1e9
    return f"{flop:.0f} GFLOP/s in FMAs, {copied:.1f} GB/s copied"


def markdown(results: Results) -> str:
    """The whole report."""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    parts = [
        f"Time per training step in µs, float32: medians of {results['rounds']} rounds. Each peer took turns "
        "with ours, in its own process, with the same threads, initial weights, data and batch order. "
        "Each peer is shown in its fastest mode; ratios are of neighbouring turns, with their 20th and 80th "
        "percentile. Every loss trajectory was checked against PyTorch's before it was timed, unless noted.",
        f"Measured on {results['device']}; {results['threads']} threads; {results['date']}; "
        f"commit {results['commit'] or 'unknown'}. In that run: {reach(results['limits'])}. {versions}.",
        "\n".join(training_table(results)),
    ]
    if results["startup"]:
        parts.append("\n".join(startup_table(results)))
    if remarks := notes(results):
        parts.append("\n".join(remarks))
    return "\n\n".join(parts) + "\n"


def newest(folder: Path) -> Path:
    """The results file of the latest date; those of a GPU (explore-, gpu-) are others."""
    files = [file for file in folder.glob("*.json") if not file.name.startswith(("explore-", "gpu-"))]
    if not files:
        raise FileNotFoundError(f"no results in {folder}: run python -m fusedmlp.benchmarks first")
    return max(files, key=lambda file: json.loads(file.read_text())["date"])


def rewrite_readme(readme: Path, results: Results) -> None:
    """Replace what stands between the markers; a README without both, in order, is a ValueError."""
    text = readme.read_text()
    start, end = text.find(START), text.find(END)
    if start < 0 or end < start:
        raise ValueError(f"{readme}: expected {START} and, after it, {END}")
    readme.write_text(f"{text[: start + len(START)]}\n{markdown(results)}{text[end:]}")
