"""`fusedmlp info`: what a bug report needs."""

import platform
from importlib import metadata

from fusedmlp.backends import NAMES, get_backend, unavailable

PACKAGES = ("fusedmlp", "numpy", "numba", "llvmlite", "scipy", "threadpoolctl")
OPTIONAL = ("scikit-learn", "torch", "jax", "numba-cuda", "cupy-cuda12x", "cupy-cuda13x")


def report() -> str:
    """Versions; then each backend, or why it is missing and what would help; and what each says of itself."""
    lines = [f"Python {platform.python_version()} on {platform.platform()}", "", "versions"]
    lines += [f"  {name:14} {version(name) or 'not installed'}" for name in PACKAGES]
    lines += [f"  {name:14} {found}" for name in OPTIONAL if (found := version(name))]
    lines += ["", "backends"]
    for name in NAMES:
        cause = unavailable(name)
        if cause is not None:
            lines.append(f"  {name:7} not available: {cause}")
            continue
        backend = get_backend(name)
        lines.append(f"  {name:7} {backend.describe()}")
        lines += [f"          {fact}: {value}" for fact, value in backend.facts().items()]
    return "\n".join(lines)


def version(package: str) -> str | None:
    """The installed version of a package, which is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
