"""A look at the arrays that a call of the interpreter hands over by their addresses, as Numba's dispatcher looks at
those that it is given."""

from numba import float32, float64, typeof, types

from fusedmlp.backends import entries


def check(call):
    """TypeError for an array of another dtype, rank or layout than the interpreter's."""
    names = entries.parameters("run")
    kinds = entries.signature("run", {"float32": float32, "float64": float64}[str(call.dtype)], types)
    for name, value, kind in zip(names, call.arguments(), kinds, strict=True):
        if isinstance(kind, types.Array) and value is not None:
            found = typeof(value)
            alike = (found.dtype, found.ndim, found.layout) == (kind.dtype, kind.ndim, kind.layout)
            if not (alike and found.aligned and found.mutable >= kind.mutable):
                raise TypeError(f"{name}: expected {kind}, got {found}")
