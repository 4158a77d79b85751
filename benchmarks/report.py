"""Tables from a run's results: Markdown, and the blocks of the documents between their two markers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusedmlp.benchmarks.cases import INFERRED, SWEPT

START = "<!-- benchmark:start -->"
END = "<!-- benchmark:end -->"
PEERS = ("pytorch", "jax", "sklearn")
TITLES = {"pytorch": "PyTorch", "jax": "JAX", "sklearn": "scikit-learn"}
ASKED = TITLES | {"numpy": "NumPy"}
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


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def rows_of(results: Results, case: str, optimizer: str, peer: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if (row["case"], row["optimizer"], row["peer"]) == (case, optimizer, peer)]


def leader(results: Results, case: str, optimizer: str) -> dict[str, Any] | None:
    """The row of the best peer."""
    return best([row for peer in PEERS for row in rows_of(results, case, optimizer, peer)])


def judged(results: Results, case: str, optimizer: str) -> bool:
    """Whether a goal counts: only where PyTorch and JAX were both timed."""
    return all(best(rows_of(results, case, optimizer, peer)) for peer in ("pytorch", "jax"))


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
    """The goal and whether it is met, or what is enough of it."""
    if work["to_reach"] is None:
        return ""
    goal, enough = f"{work['to_reach']:.2f}", work.get("enough", work["to_reach"])
    if ratio is None or not judged(results, work["case"], work["optimizer"]):
        return f"{goal}, not judged"
    if ratio["p50"] >= work["to_reach"]:
        return f"{goal}, met"
    return f"{goal}, {f'above {enough:.2f}' if ratio['p50'] >= enough else 'not met'}"


def training_table(results: Results) -> str:
    """A line for each case and optimizer; the sweeps are for pictures."""
    head = ["case", "sizes, batch, loss", "optimizer", "ours", *(TITLES[peer] for peer in PEERS)]
    head += ["floor: FMA, copy", "best peer's time over ours", "to reach"]
    rows = []
    for work in results["cases"]:
        name, optimizer = work["case"], work["optimizer"]
        if name in SWEPT:
            continue
        best_peer = leader(results, name, optimizer)
        ratio = best_peer["ratio"] if best_peer else None
        cells = [name, f"{'-'.join(map(str, work['sizes']))}, {work['batch']}, {work['loss']}", optimizer]
        cells += [cell(rows_of(results, name, optimizer, peer)) for peer in ("ours", *PEERS)]
        cells.append(f"{microseconds(work['compute_floor'])}, {microseconds(work['traffic_floor'])}")
        rows.append([*cells, spread(ratio) if ratio else "", verdict(results, work, ratio)])
    return table(head, rows)


def limits_table(results: Results) -> str:
    """A line for each case and optimizer: which share of the FMA rate ours and the best peer reach, and how many times
    that peer's speed the rate would allow, if nothing but the products took time."""
    rows = []
    for work in results["cases"]:
        ours = best(rows_of(results, work["case"], work["optimizer"], "ours"))
        peer = leader(results, work["case"], work["optimizer"])
        if work["case"] in SWEPT or ours is None or peer is None:
            continue
        floor, (taken, peers) = work["compute_floor"], (row["seconds"]["p50"] for row in (ours, peer))
        shares = [f"{100 * floor / seconds:.0f} %" for seconds in (taken, peers)]
        whose = f"{TITLES[peer['peer']]} {peer['mode']}"
        goal = "" if work["to_reach"] is None else f"{work['to_reach']:.2f}"
        cells = [work["case"], work["optimizer"], microseconds(floor), *shares, whose, f"{peers / floor:.2f}", goal]
        rows.append(cells)
    head = ["case", "optimizer", "floor, µs", "ours", "best peer", "who", "ratio at the floor", "to reach"]
    return table(head, rows)


def inference_table(results: Results) -> str:
    """A line for each network and number of rows: µs a call, and the best peer's over ours."""
    rows = []
    for name, case in INFERRED.items():
        asked = [row for row in results["inference"] if row["case"] == name]
        by_peer = {peer: [row for row in asked if row["peer"] == peer] for peer in ("ours", *ASKED)}
        first = best([row for row in asked if row["peer"] != "ours"])
        cells = ["-".join(map(str, case.sizes)), str(case.batch)]
        cells += [
            microseconds(row["seconds"]["p50"]) if (row := best(found)) else "".join(r["status"] for r in found)
            for found in by_peer.values()
        ]
        rows.append([*cells, spread(first["ratio"]) if first and first["ratio"] else ""])
    head = ["asked", "rows", "ours, µs", *ASKED.values(), "best peer's time over ours"]
    return table(head, rows)


def calls_table(results: Results) -> str:
    """A line for each kernel: µs of a call on arrays of one number."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    lines = []
    for row in results["calls"]:
        if row["status"] == "timed":
            found.setdefault(row["kernel"], {})[row["peer"]] = row["seconds"]
        else:
            lines.append([row["kernel"], f"{row['status']}: {row['note']}", "", ""])
    for kernel, took in found.items():
        peers = (microseconds(took[peer]["p50"]) if peer in took else "missing" for peer in ("numpy", "pytorch"))
        lines.append([kernel, spread(took["ours"], microseconds), *peers])
    return table(["one number", "ours, µs", "NumPy", "PyTorch"], lines)


def compared(row: dict[str, Any]) -> str:
    """One comparison in a line."""
    line = f"{row['part']:10} {row['peer']:8} {row['mode']:16} {row['what']}: "
    return line + (spread(row["ratio"]) if row["status"] == "timed" else f"{row['status']}, {row['note']}")


def goal(row: dict[str, Any]) -> str:
    least, most = row["at_least"], row["at_most"]
    return f"at least {least}" if least is not None else f"at most {most}" if most is not None else ""


def comparison_table(results: Results) -> str:
    """A line for each comparison of two runs of the same peer: µs a step of both, and their ratio."""
    rows = []
    for row in results["comparisons"]:
        cells = [row["part"], row["what"], f"{row['peer']} {row['mode']}"]
        if row["status"] == "timed":
            cells += [microseconds(row["seconds"]["p50"]), microseconds(row["base"]["p50"]), spread(row["ratio"])]
        else:
            cells += ["", "", f"{row['status']}: {row['note']}"]
        rows.append([*cells, goal(row)])
    return table(["part", "compared", "whose", "µs a step", "over", "ratio", "to reach"], rows)


def megabytes(size: float) -> str:
    return significant(size / 1e6)


def memory_table(results: Results) -> str:
    """A line for each case and optimizer: MB of each peer."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in results["memory"]:
        found.setdefault((row["case"], row["optimizer"]), {})[row["peer"]] = row
    peers = [peer for peer in ("ours", *TITLES) if any(peer in rows for rows in found.values())]
    lines = []
    for (case, optimizer), rows in found.items():
        cells = [case, optimizer, megabytes(next(iter(rows.values()))["parameter_bytes"])]
        for peer in peers:
            row = rows.get(peer, {"status": ""})
            cells.append(megabytes(row["bytes"]) if row["status"] == "measured" else row["status"])
        limit = rows["ours"].get("bound")
        lines.append([*cells, megabytes(limit) if limit else ""])
    titles = [({"ours": "ours"} | TITLES)[peer] for peer in peers]
    return table(["memory at its peak", "optimizer", "parameters, MB", *titles, "at most"], lines)


def startup_table(results: Results) -> str:
    """A line for each start-up figure, in ms."""
    rows = []
    for row in results["startup"]:
        limit = f"{row['limit'] * 1e3:.0f}"
        if row["status"] != "timed":
            rows.append([row["case"], f"{row['status']}: {row['note']}", "", limit])
            continue
        over = spread(row["seconds"], lambda seconds: f"{seconds * 1e3:.1f}")
        rows.append([row["case"], over, f"{row['floor'] * 1e3:.0f}", limit])
    return table(["start-up", "over its floor, ms", "the floor, ms", "at most, ms"], rows)


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


def conditions(results: Results) -> str:
    """What was measured on, in words."""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return (
        f"Measured on {results['device']}; {results['threads']} threads; {results['date']}; "
        f"commit {results['commit'] or 'unknown'}. In that run: {reach(results['limits'])}. {versions}."
    )


def races(results: Results) -> list[str]:
    """Against the peers: trainings, inference, start-up."""
    parts = []
    if any(work["case"] not in SWEPT for work in results["cases"]):
        parts += [
            f"Time per training step in µs, float32: medians of {results['rounds']} rounds. Each peer took turns "
            "with ours, in its own process, with the same threads, initial weights, data and batch order. "
            "Each peer is shown in its fastest mode; ratios are of neighbouring turns, with their 20th and 80th "
            "percentile. Every loss trajectory was checked against PyTorch's before it was timed, unless noted.",
            training_table(results),
        ]
    if results.get("inference"):
        parts += ["A network that is asked, from Python, with so many rows at once:", inference_table(results)]
    if results["startup"]:
        parts.append(startup_table(results))
    if remarks := notes(results):
        parts.append("\n".join(remarks))
    return parts


def properties(results: Results) -> list[str]:
    """What a run showed beside the races: limits, single calls, threads, growth, subnormals, sharing, memory."""
    parts = []
    if any(work["case"] not in SWEPT for work in results["cases"]):
        parts += [
            "How much of the FMA rate a training reaches, counted in the products alone, and the ratio to the best "
            "peer of one that reached it: more is not possible.",
            limits_table(results),
        ]
    if results.get("calls"):
        said = "What a single call takes before it computes: each kernel on arrays of one number. To reach: 3 µs."
        parts += [said, calls_table(results)]
    if results.get("comparisons"):
        parts += [
            "Two runs of the same library took turns; ratios are of neighbouring turns, with their 20th and 80th "
            "percentile.",
            comparison_table(results),
        ]
    if results.get("memory"):
        parts += [
            "Resident memory in MB, each training in a process of its own: above the data, and above what the process "
            "had after its imports and a small training.",
            memory_table(results),
        ]
    return parts


def markdown(results: Results) -> str:
    """The whole report."""
    return "\n\n".join([conditions(results), *races(results), *properties(results)]) + "\n"


def newest(folder: Path) -> Path:
    """The results file of the latest date; those of a GPU (explore-, gpu-) are others."""
    files = [file for file in folder.glob("*.json") if not file.name.startswith(("explore-", "gpu-"))]
    if not files:
        raise FileNotFoundError(f"no results in {folder}: run python -m fusedmlp.benchmarks first")
    return max(files, key=lambda file: json.loads(file.read_text())["date"])


def rewrite_documents(root: Path, results: Results) -> list[Path]:
    """Replace what stands between the markers of README.md and of docs/performance.md."""
    shown = {"README.md": races(results), "docs/performance.md": properties(results)}
    return [rewrite(root / name, [conditions(results), *parts]) for name, parts in shown.items()]


def rewrite(document: Path, parts: list[str]) -> Path:
    """A document without both markers, in order, is a ValueError."""
    text = document.read_text()
    start, end = text.find(START), text.find(END)
    if start < 0 or end < start:
        raise ValueError(f"{document}: expected {START} and, after it, {END}")
    body = "\n\n".join(parts)
    document.write_text(f"{text[: start + len(START)]}\n{body}\n{text[end:]}")
    return document
