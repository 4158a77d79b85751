"""What the kernels take of a multiprocessor, by NVIDIA's assembler, without a device: registers, shared memory, spills.

python -m fusedmlp.benchmarks.ptxas          prints the table
python -m fusedmlp.benchmarks.ptxas --docs   writes it into docs/performance.md
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedmlp.backends import entries
from fusedmlp.backends.cuda.backend import SHAPES
from fusedmlp.backends.cuda.kinds import Kind, family
from fusedmlp.kernels import activations, losses, optimizers
from fusedmlp.kernels.rules import FAMILIES, kind

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
OLDEST = (8, 0)
ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- kernels: begin -->", "<!-- kernels: end -->"

# Those whose tile's size matters, since they multiply.
BY_TILES = ("one.forward", "one.backward", "one.update")
NEVER_LAUNCHED = ("backward", "multiply", "meet")  # the products of dense_backward are cuBLASLt's; the CPU's measures
RULELESS = ("one.gather", "one.total", "one.copy_out", "advance", "bias_gradient")
# A training program's rules, for the interpreter: gelu and softmax with cross-entropy, by Adam.
TRAINING = (
    ("activations", tuple(sorted(kind("activations", rule) for rule in (activations.identity, activations.gelu)))),
    ("losses", (kind("losses", losses.cross_entropy),)),
    ("updates", (kind("updates", optimizers.ADAM_UPDATE),)),
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


def kernels(dtype: np.dtype) -> Iterator[tuple[str, Kind]]:
    """Every entry that is launched, with the heaviest rules of its family; what multiplies, in every size of tile."""
    smallest, *_ = SHAPES[dtype]
    for name in entries.NAMES:
        if name in NEVER_LAUNCHED:
            continue
        if name == "run":
            yield name, Kind(dtype, smallest, TRAINING, home=True)
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


def assembler() -> str:
    """The path of ptxas. FileNotFoundError where there is none."""
    from cuda.pathfinder import find_nvidia_binary_utility

    found = find_nvidia_binary_utility("ptxas")
    if found is None:
        raise FileNotFoundError("ptxas was not found; pip install 'cuda-toolkit[nvcc]'")
    return found


def assembled(code: str, architecture: str) -> Usage:
    """What ptxas says of a kernel's PTX. RuntimeError where it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(code)
        # Not linked, since the barrier of the grid is in NVIDIA's library of the device.
        command = [assembler(), "--verbose", "--compile-only", f"--gpu-name={architecture}", str(source)]
        done = subprocess.run([*command, "--output-file", str(source) + ".o"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ptxas: {done.stderr.strip()}")
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


def table() -> str:
    lines = [
        f"| kernel | rules | dtype | tile | registers on {', '.join(ARCHITECTURES)} | shared, bytes | spills, bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    for dtype in SHAPES:
        for name, of in kernels(dtype):
            code, found = assembled_for(name, of)
            registers = ", ".join(str(usage.registers) for usage in found.values())
            spills = max(usage.spills for usage in found.values())
            row = (name, rules_in_words(of), dtype, of.shape.edge, registers, shared_bytes(code), spills)
            lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fusedmlp.benchmarks.ptxas", description=__doc__.split("\n\n")[0])
    parser.add_argument("--docs", action="store_true", help="write the table into docs/performance.md")
    arguments = parser.parse_args()
    made = table()
    print(made)
    if arguments.docs:
        page = ROOT / "docs" / "performance.md"
        text = page.read_text()
        before, rest = text.split(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
