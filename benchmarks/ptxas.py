"""What the kernels take of a multiprocessor, by NVIDIA's assembler, without a device: registers, shared memory, spills.

python -m fusedmlp.benchmarks.ptxas          prints the table
python -m fusedmlp.benchmarks.ptxas --docs   writes it into docs/performance.md
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusedmlp.backends import entries
from fusedmlp.backends.cuda.backend import SHAPES, SHARED_OF_THE_INTERPRETER
from fusedmlp.backends.cuda.kinds import Kind, Rules, family
from fusedmlp.kernels import activations, losses, optimizers
from fusedmlp.kernels.rules import FAMILIES, kind

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
OLDEST = (8, 0)
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- kernels: begin -->", "<!-- kernels: end -->"

# Those whose tile's size matters, since they multiply.
BY_TILES = ("one.forward", "one.backward", "one.update")
# The products of dense_backward are cuBLASLt's; the others measure a processor.
NEVER_LAUNCHED = ("backward", "multiply", "add", "write", "meet")
RULELESS = ("one.gather", "one.total", "one.copy_out", "advance", "bias_gradient")


def rules(chosen: Iterable[Any], loss: Any, update: Any) -> Rules:
    """A training program's: of its layers, among them the output's identity before a loss that reads logits."""
    numbers = {kind("activations", rule) for rule in (activations.identity, *chosen)}
    of_losses, of_updates = (kind("losses", loss),), (kind("updates", update),)
    return ("activations", tuple(sorted(numbers))), ("losses", of_losses), ("updates", of_updates)


# For the interpreter: a usual training, and one whose rules take the most.
TRAININGS = (
    rules([activations.gelu], losses.cross_entropy, optimizers.ADAM_UPDATE),
    rules([activations.gelu, activations.softmax], losses.binary_cross_entropy, optimizers.RMSPROP_MOMENTUM_UPDATE),
)
HEAVIEST = {
    "activations": (activations.gelu, activations.softmax),
    "losses": (losses.cross_entropy, losses.binary_cross_entropy),
    "updates": (optimizers.ADAM_UPDATE, optimizers.RMSPROP_MOMENTUM_UPDATE),
}


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture: registers of a thread, bytes that it spills, and the most bytes that a
    function it calls saves of its caller's registers."""

    registers: int
    spills: int
    saved: int


@dataclass(frozen=True)
class Budget:
    """What the kernels of some entries may take, on every architecture.

    registers  of a thread, by dtype: what they take, and about a tenth
    shared     bytes that a block declares
    """

    what: str
    entries: tuple[str, ...]
    registers: dict[str, int]
    shared: int = 48 << 10  # that a block has unasked

    def blocks(self, dtype: str) -> int:
        """How many blocks of 256 threads find registers on a multiprocessor."""
        return REGISTERS_OF_A_MULTIPROCESSOR // (256 * self.registers[dtype])


REGISTERS_OF_A_MULTIPROCESSOR = 1 << 16
_MULTIPLY = ("forward", "one.forward", "one.backward", "one.update")
_LOSSES, _STEPS = ("loss", "one.loss"), ("step", "one.step_alone")
_REST = tuple(name for name in entries.NAMES if name not in (*_MULTIPLY, *_LOSSES, *_STEPS, "run", *NEVER_LAUNCHED))
BUDGETS = (
    Budget("multiplies", _MULTIPLY, {"float32": 248, "float64": 248}),
    Budget("interprets", ("run",), {"float32": 176, "float64": 198}, SHARED_OF_THE_INTERPRETER),
    Budget("losses", _LOSSES, {"float32": 174, "float64": 180}),
    Budget("steps of an optimizer", _STEPS, {"float32": 158, "float64": 176}),
    Budget("the rest", _REST, {"float32": 148, "float64": 160}),
)


def budget_of(name: str) -> Budget:
    (found,) = (budget for budget in BUDGETS if name in budget.entries)
    return found


def kernels(dtype: np.dtype) -> Iterator[tuple[str, Kind]]:
    """Every entry that is launched, with the heaviest rules of its family; what multiplies, in every size of tile."""
    smallest, *_ = SHAPES[dtype]
    for name in entries.NAMES:
        if name in NEVER_LAUNCHED:
            continue
        if name == "run":
            yield from ((name, Kind(dtype, smallest, training, home=True)) for training in TRAININGS)
        elif name in RULELESS:
            yield name, Kind(dtype, smallest)
        else:
            chosen = family(name)
            for rule in HEAVIEST[chosen]:
                numbers = {kind(chosen, rule)}
                if name == "forward":
                    numbers.add(kind(chosen, activations.identity))
                for shape in SHAPES[dtype] if name in BY_TILES else (smallest,):
                    yield name, Kind(dtype, shape, ((chosen, tuple(sorted(numbers))),))


def assembled_for(name: str, of: Kind) -> tuple[str, dict[str, Usage]]:
    """A kernel's PTX for the oldest architecture, and what it takes on each."""
    from fusedmlp.backends.cuda.compile import ptx

    code = ptx(name, of, OLDEST)
    return code, {architecture: assembled(code, architecture) for architecture in ARCHITECTURES}


def assembler(code: str) -> str:
    """The path of ptxas. FileNotFoundError where there is none, with what to install for this PTX."""
    from cuda.pathfinder import find_nvidia_binary_utility

    found = find_nvidia_binary_utility("ptxas")
    if found is None:
        raise FileNotFoundError(f"NVIDIA's assembler, ptxas, was not found; {remedy(code)}")
    return found


def remedy(code: str) -> str:
    """What to type for an assembler as new as the compiler that made this PTX: PTX 8 is CUDA 12's, 9 is CUDA 13's."""
    found = re.search(r"^\.version\s+(\d+)\.", code, re.MULTILINE)
    assert found, code[:400]
    return f"pip install 'cuda-toolkit[nvcc]=={int(found[1]) + 4}.*'"


def assembled(code: str, architecture: str) -> Usage:
    """What ptxas says of a kernel's PTX. RuntimeError where it refuses, with what to install if it is too old."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(code)
        # Not linked, since the barrier of the grid is in NVIDIA's library of the device.
        command = [assembler(code), "--verbose", "--compile-only", f"--gpu-name={architecture}", str(source)]
        done = subprocess.run([*command, "--output-file", str(source) + ".o"], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip()
        older = "Unsupported .version" in said
        raise RuntimeError(f"{command[0]}: {said}" + f"\nit is older than the compiler; {remedy(code)}" * older)
    stores = {"entry": 0, "called": 0}
    role = "entry"
    for line in done.stderr.splitlines():
        if "Function properties for" in line:
            role = "entry" if entry_name(code) in line else "called"
        if found := re.search(r"(\d+) bytes spill stores", line):
            stores[role] = max(stores[role], int(found[1]))
    registers = re.search(r"Used (\d+) registers", done.stderr)
    assert registers, done.stderr
    return Usage(int(registers[1]), stores["entry"], stores["called"])


def entry_name(code: str) -> str:
    found = re.search(r"\.entry\s+(\S+?)\(", code)
    assert found, code[:400]
    return found[1]


def shared_bytes(code: str) -> int:
    """What a kernel's PTX declares of shared memory, beside what its launch asks for."""
    return sum(int(found) for found in re.findall(r"\.shared[^;\n]*\.b8 \w+\[(\d+)\]", code))


def rules_in_words(of: Kind) -> str:
    names = [list(FAMILIES[name])[number].name for name, numbers in of.rules for number in numbers]
    return ", ".join(name for name in names if name != "identity") or "-"


def budgets() -> list[str]:
    """The budgets as a table."""
    lines = [
        "| budget | entries | registers, float32 | registers, float64 | blocks a multiprocessor | shared, bytes |",
        "|---|---|---|---|---|---|",
    ]
    for budget in BUDGETS:
        blocks = [budget.blocks(dtype) for dtype in budget.registers]
        shown = str(blocks[0]) if len(set(blocks)) == 1 else ", ".join(map(str, blocks))
        row = (budget.what, ", ".join(budget.entries), *budget.registers.values(), shown, budget.shared)
        lines.append(f"| {' | '.join(map(str, row))} |")
    return lines


def described(name: str, of: Kind) -> tuple[str, ...]:
    """The first cells of a kernel's row: which it is."""
    return name, rules_in_words(of), str(of.dtype), str(of.shape.edge)


def table() -> Iterator[str]:
    """Budgets, then kernels: line by line, for each kernel takes seconds."""
    yield from [*budgets(), ""]
    yield f"| kernel | rules | dtype | tile | registers on {', '.join(ARCHITECTURES)} | shared, bytes | spills, bytes |"
    yield "|---|---|---|---|---|---|---|"
    for dtype in SHAPES:
        for name, of in kernels(dtype):
            code, found = assembled_for(name, of)
            registers = ", ".join(str(usage.registers) for usage in found.values())
            spills = max(usage.spills + usage.saved for usage in found.values())
            yield f"| {' | '.join((*described(name, of), registers, str(shared_bytes(code)), str(spills)))} |"


def parts_of(page: str) -> tuple[str, str, str]:
    """A page before, within and behind what this module writes."""
    before, rest = page.split(BEGIN)
    within, after = rest.split(END)
    return before, within, after


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fusedmlp.benchmarks.ptxas", description=__doc__.split("\n\n")[0])
    parser.add_argument("--docs", action="store_true", help="write the table into docs/performance.md")
    arguments = parser.parse_args()
    if arguments.docs and not PAGE.is_file():
        print(f"nothing was done: {PAGE} is not there; --docs is for a checkout", file=sys.stderr)
        return 1
    lines = []
    try:
        for line in table():
            print(line, flush=True)
            lines.append(line)
    except (FileNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.docs:
        before, _, after = parts_of(PAGE.read_text())
        PAGE.write_text("\n".join([f"{before}{BEGIN}", *lines, f"{END}{after}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
