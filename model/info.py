"""`fusedmlp info`: what a bug report needs."""

import platform
from importlib import metadata

from fusedmlp.backends import NAMES, BackendUnavailable, chosen, get_backend, unavailable
from fusedmlp.backends.install import command

PACKAGES = ("fusedmlp", "numpy", "numba", "llvmlite", "scipy", "threadpoolctl")
OPTIONAL = (
    *("scikit-learn", "torch", "jax"),
    *("cupy-cuda12x", "cupy-cuda13x", "numba-cuda", "cuda-bindings", "cuda-core", "nvmath-python"),
    *("nvidia-cublas", "nvidia-cublas-cu12"),  # CUDA 13's and CUDA 12's
)
CUBLAS = {"cupy-cuda12x": "nvidia-cublas-cu12", "cupy-cuda13x": "nvidia-cublas"}  # of the same CUDA
WIDTH = max(map(len, PACKAGES + OPTIONAL))
TWO_CUPYS = "warning: two CuPys in one place: uninstall both, and install the one for the driver's CUDA again"


def report() -> str:
    """Versions; then which backend "auto" is, and why; then each backend, or why it is missing and what would help; and
    what each says of itself. Of the packages for CUDA those that are installed, and cuBLAS where CuPy lacks it."""
    lines = [f"Python {platform.python_version()} on {platform.platform()}", "", "versions"]
    lines += [f"  {name:{WIDTH}} {version(name) or 'not installed'}" for name in PACKAGES]
    found = {name: version(name) for name in OPTIONAL}
    found |= {name: without_cublas(cupy) for cupy, name in CUBLAS.items() if found[cupy] and not found[name]}
    lines += [f"  {name:{WIDTH}} {said}" for name, said in found.items() if said]
    lines += [f"  {TWO_CUPYS}"] if all(map(found.get, CUBLAS)) else []
    lines += ["", "backends", f"  auto    {automatic()}"]
    for name in NAMES:
        cause = unavailable(name)
        if cause is not None:
            lines.append(f"  {name:7} not available: {cause}")
            continue
        backend = get_backend(name)
        lines.append(f"  {name:7} {backend.describe()}")
        lines += [f"          {fact}: {value}" for fact, value in backend.facts().items()]
    return "\n".join(lines)


def without_cublas(cupy: str) -> str:
    """What to say of the cuBLAS beside a CuPy, which does not bring it."""
    extra = cupy.removeprefix("cupy-").removesuffix("x")
    return f"not installed, though {cupy} is; {command(extra)}, or cuBLASLt of the system's CUDA or conda's"


def automatic() -> str:
    """The backend that "auto" is here, and why it is that one; or why there is none."""
    try:
        name, reason = chosen()
    except (BackendUnavailable, ValueError) as error:
        return f"none: {error}"
    return f"{name} ({reason})"


def version(package: str) -> str | None:
    """The installed version of a package, which is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
