"""Vectors in LLVM IR, of any length: a processor whose own are shorter takes several for one."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

int32, int64 = ir.IntType(32), ir.IntType(64)


class Emitter:
    """LLVM's instructions on vectors of a dtype, at addresses in int64."""

    def __init__(self, builder: Any, bitwidth: int, lanes: int) -> None:
        self.builder = builder
        self.bitwidth, self.size, self.lanes = bitwidth, bitwidth // 8, lanes
        self.scalar = {32: ir.FloatType(), 64: ir.DoubleType()}[bitwidth]
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.zero = ir.Constant(self.vector, [ir.Constant(self.scalar, 0.0)] * self.lanes)
        self.undefined = ir.Constant(self.vector, ir.Undefined)

    def load(self, address: Any, mask: Any = None) -> Any:
        """A vector, which need not be aligned. Where a mask has none of it, zeros, and nothing is read."""
        place = self.builder.inttoptr(address, ir.PointerType(self.vector))
        if mask is not None:
            return self._masked("load", [place, int32(self.size), mask, self.zero], self.vector)
        return self._unaligned(self.builder.load(place))

    def load_number(self, address: Any) -> Any:
        return self._unaligned(self.builder.load(self.builder.inttoptr(address, ir.PointerType(self.scalar))))

    def store(self, value: Any, address: Any, mask: Any = None) -> None:
        place = self.builder.inttoptr(address, ir.PointerType(self.vector))
        if mask is not None:
            self._masked("store", [value, place, int32(self.size), mask], ir.VoidType())
        else:
            self._unaligned(self.builder.store(value, place))

    def _unaligned(self, access: Any) -> Any:
        access.align = self.size
        return access

    def _masked(self, what: str, arguments: list[Any], result: Any) -> Any:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        name = f"llvm.masked.{what}.v{self.lanes}f{self.bitwidth}.p0"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)

    def mask(self, count: Any) -> Any:
        """Of the first so many lanes, or of all."""
        counts, most = ir.VectorType(int32, self.lanes), int64(self.lanes)
        enough = self.builder.icmp_signed("<", count, most)
        count = self.builder.trunc(self.builder.select(enough, count, most), int32)
        spread = self.builder.insert_element(ir.Constant(counts, ir.Undefined), count, int32(0))
        spread = self.shuffle(spread, spread, [0] * self.lanes)
        return self.builder.icmp_signed("<", ir.Constant(counts, list(range(self.lanes))), spread)

    def unmoved(self, number: Any) -> Any:
        """The same number, of which LLVM does not know that it is: what is made of it stays where it is made."""
        kind = ir.FunctionType(number.type, [number.type])
        return self.builder.asm(kind, "", "=r,0", [number], side_effect=True)

    def vectors_on(self, address: Any, count: int) -> Any:
        return self.builder.add(address, int64(count * self.lanes * self.size))

    def rows_on(self, address: Any, stride: Any, count: int) -> Any:
        return self.builder.add(address, self.builder.mul(stride, int64(count)))

    def shuffle(self, a: Any, b: Any, order: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(int32, len(order)), order))

    def spread(self, number: Any) -> Any:
        first = self.builder.insert_element(self.undefined, number, int32(0))
        return self.shuffle(first, self.undefined, [0] * self.lanes)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, in one operation where the host has it."""
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fmuladd.v{self.lanes}f{self.bitwidth}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])
