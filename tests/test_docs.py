"""The documents are true: their Python runs and prints what they show, and what they name exists.

The ```python blocks of a document run in its order, in one namespace and one process. What a block prints stands in the
```text block behind it: words as they are, numbers to the digits shown.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import traceback
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
DOCUMENTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
FOLDERS = ("kernels", "backends", "model", "tests", "benchmarks", "docs")
FILE = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/]|(?<![\w./-])\w+\.(?:toml|txt|md)\b")
MADE = {"benchmarks/results/"}  # not there before the first run


def blocks(text):
    """(language, line of the first line, content) of each fenced block."""
    return [(found[1], text.count("\n", 0, found.start(2)) + 1, found[2]) for found in FENCE.finditer(text)]


def prose(text):
    return FENCE.sub("", text)


def printed(document):
    """What each of a document's Python blocks prints, up to the first that fails; then the error, or None."""
    namespace, outputs = {"__name__": "__main__"}, []
    for language, line, code in blocks(document.read_text(encoding="utf-8")):
        if language != "python":
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                # So many empty lines in front that a traceback names, and shows, the document's own lines.
                exec(compile("\n" * (line - 1) + code, document, "exec"), namespace)
        except Exception:
            return outputs, traceback.format_exc()
        outputs.append(output.getvalue())
    return outputs, None


def assert_printed(got, shown, where):
    """Raises unless `got` says what `shown` does: numbers within one unit of the last digit shown, whole ones exactly,
    and all between them but the spacing."""

    def words(text):
        return [" ".join(part.split()) for part in NUMBER.split(text)]

    def near(number, text):
        mantissa, _, exponent = text.replace(",", "").partition("e")
        decimals = len(mantissa.partition(".")[2])
        unit = 10.0 ** (int(exponent or 0) - decimals) if decimals or exponent else 0.0
        return abs(float(number.replace(",", "")) - float(text.replace(",", ""))) <= unit * (1 + 1e-9)

    numbers, expected = NUMBER.findall(got), NUMBER.findall(shown)
    if words(got) != words(shown) or not all(map(near, numbers, expected)):
        raise AssertionError(f"{where}\nshown:\n{shown}\nprinted:\n{got}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_code_runs_and_prints_what_is_shown(name, tmp_path):
    found = blocks(DOCUMENTS[name])
    if not any(language == "python" for language, _, _ in found):
        return
    chosen = ("FUSEDMLP_BACKEND", "FUSEDMLP_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, __file__, str(ROOT / name)],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key not in chosen},
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        timeout=580,
    )
    assert done.returncode == 0
    outputs, error = json.loads(done.stdout)
    following = [*found[1:], ("", 0, "")]
    shown = [after if after[0] == "text" else ("", at[1], "") for at, after in zip(found, following, strict=True)
             if at[0] == "python"]  # fmt: skip
    for got, (_, line, text) in zip(outputs, shown, strict=False):
        assert_printed(got, text, f"{name}:{line}")
    assert error is None, error


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_code_output_or_commands(name):
    """Whatever is shown as printed is what the code before it prints."""
    languages = ["", *(language for language, _, _ in blocks(DOCUMENTS[name]))]
    for before, language in pairwise(languages):
        assert language in ("python", "text", "sh")
        assert language != "text" or before == "python"


@pytest.mark.parametrize(
    "got, shown, same",
    [
        ("loss 0.47388890\n", "loss 0.4739", True),
        ("loss 0.4741", "loss 0.4739", False),
        ("loss 0.4739", "gain 0.4739", False),
        ("[[ 1.5e-05  2. ]]", "[[1.5e-05 2.]]", True),
        ("1.7e-05", "1.5e-05", False),
        ("8 rows", "9 rows", False),
        ("1,797 rows", "1797 rows", True),
        ("1 2 3", "1 2", False),
        ("-0.5", "0.5", False),
        ("", "0.5", False),
    ],
)
def test_what_counts_as_the_same_output(got, shown, same):
    with contextlib.nullcontext() if same else pytest.raises(AssertionError):
        assert_printed(got, shown, "here")


def test_a_failing_block_is_told_by_its_line(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("# Title\n\n```python\nprint(1)\n```\n\n```python\nx = 1\nx / 0\n```\n")
    outputs, error = printed(document)
    assert outputs == ["1\n"]
    assert "line 9" in error and "ZeroDivisionError" in error


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(DOCUMENTS[name])):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(file.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                target
            )


@pytest.mark.parametrize("name", NAMES)
def test_files_and_tests_exist(name):
    text = prose(DOCUMENTS[name])
    for file in set(FILE.findall(text)) - MADE:
        assert (ROOT / file).exists() or ((ROOT / name).parent / file).exists(), file
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for test in re.findall(r"`(test_\w+)`", text):
        assert f"def {test}(" in sources, test


@pytest.mark.parametrize("name", NAMES)
def test_names_exist(name):
    """Public names, environment variables and commands."""
    import fusedmlp

    for public in re.findall(r"\bfm\.(\w+)", DOCUMENTS[name]):
        assert public in fusedmlp.__all__, public
    folders = ("backends", "model", "benchmarks", "tests")
    sources = "\n".join(
        path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py")
    )
    for variable in re.findall(r"\bFUSEDMLP_\w+", DOCUMENTS[name]):
        assert f'"{variable}"' in sources, variable
    for command in re.findall(r"`(?:python -m )?fusedmlp (\w+)", DOCUMENTS[name]):
        assert f'add_parser("{command}"' in sources, command
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in re.findall(r"(?:\bfusedmlp|\.)\[(\w+)\]", DOCUMENTS[name]):
        assert extra in extras, extra


def test_what_is_told_to_be_installed_for_a_gpu():
    """README.md names the extras by their CUDA; what CONTRIBUTING.md adds has no second CuPy, nor another CUDA."""
    readme, contributing = DOCUMENTS["README.md"], DOCUMENTS["CONTRIBUTING.md"]
    for part in ('"CUDA Version"', "'.[cuda13]'", ".[cuda12]", "CUDA_VISIBLE_DEVICES", "FUSEDMLP_BACKEND=cpu"):
        assert part in readme, part
    lines = re.findall(r"^pip install '\.\[cuda(\d+)\]' (.*?)(?: +#.*)?$", contributing, re.MULTILINE)
    assert [cuda for cuda, _ in lines] == ["13", "12"]
    for cuda, packages in lines:
        assert "pytest" in packages and "torch" in packages and "cupy" not in packages
        assert all(major == cuda for major in re.findall(r"cuda-toolkit==(\d+)", packages))


def test_make_targets():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, text in DOCUMENTS.items():
        assert set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", text, re.MULTILINE)) <= {
            pair for target in targets for pair in ((target, ""), ("", target))
        }, name
    commands = [content for language, _, content in blocks(DOCUMENTS["README.md"]) if language == "sh"]
    assert re.findall(r"make (\w+)", commands[0]) == ["demo", "test"]


@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_there_is_room_for_the_benchmarks(name):
    from fusedmlp.benchmarks.report import END, START

    text = DOCUMENTS[name]
    assert text.count(START) == text.count(END) == 1
    assert text.index(START) < text.index(END)


if __name__ == "__main__":
    # Beside what a block prints, standard output carries nothing but the answer.
    print(json.dumps(printed(Path(sys.argv[1]))))
