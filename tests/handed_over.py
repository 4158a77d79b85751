"""A look at what an entry of the cpu backend is given: each argument must be of its type, rank and layout, which the
entry takes on trust."""

from numba import float32, float64, typeof, types

from fusedmlp.backends import entries

SCALARS = (types.Boolean, types.Integer, types.Float)


def check(body, dtype, given):
    """TypeError for an argument, by the name of the body's parameter, that is not of its type."""
    signature = entries.signature(body, {"float32": float32, "float64": float64}[str(dtype)], types)
    kinds = dict(zip(entries.parameters(body), signature, strict=True))
    for name, value in given.items():
        found, kind = typeof(value), kinds[name]
        if isinstance(kind, types.Array):
            alike = isinstance(found, types.Array) and (
                (found.dtype, found.ndim, found.layout) == (kind.dtype, kind.ndim, kind.layout)
                and found.aligned
                and found.mutable >= kind.mutable
            )
        elif isinstance(kind, types.UniTuple):
            alike = isinstance(found, types.UniTuple) and found.count == kind.count
            alike = alike and isinstance(found.dtype, types.Float)
        else:
            alike = any(isinstance(found, family) and isinstance(kind, family) for family in SCALARS)
        if not alike:
            raise TypeError(f"{name}: expected {kind}, got {found}")
