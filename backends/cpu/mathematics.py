"""The mathematical functions on the processor, as LLVM IR without a branch or a call: so LLVM makes of a loop over them
one over vectors, where the C library's functions take one number at a time.

exp is exact to 2 ulp, the others to 4, in both dtypes (1.6 and 3.0 were seen: tests/system/test_mathematics.py); NaN,
infinities and signs of zero are the C library's. Arguments and results below the least normal number count as zero.
Where the processor has no fused multiply-add it rounds twice, within the same bounds.

Reductions of the argument are those of Cody and Waite (Software Manual for the Elementary Functions, 1980); log and
log1p are those of fdlibm. The polynomials are minimax ones of our own, made and checked by tests/system/minimax.py;
beside each stands the greatest relative error that it leaves in its function, in units of the roundoff.

Beside Intel's SVML, NumPy and others they stand in docs/design.md: SVML is up to a fifth faster for exp and log, slower
for tanh and erf, and llvmlite's wheels do not bind it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@dataclass(frozen=True)
class Format:
    """A dtype: its bits, and the numbers that the functions need for it.

    ln2          log(2) in two parts; a product of the first with an exponent is exact
    exp_least    exp of this and of what is below is 0: between -bias log(2) and (1 - bias) log(2)
    exp_most     exp of this and of what is above is inf: between (bias + 1) log(2) and (bias + 2) log(2)
    expm1_least  expm1 of this and of what is below is -1
    tanh_most    tanh of this and of what is above is 1
    erf_most     erf of this and of what is above is 1
    exp, expm1   (exp(r) - 1 - r) / r² over [0, log(2)], and over [-log(2) / 2, log(2) / 2]
    log          (2 atanh(s) / s - 2) / s² of s² over [0, (3 - sqrt(8))²]
    erf          -log(erfc(a)) / a over [0, erf_most]
    """

    integer: Any
    mantissa: int
    ln2: tuple[float, float]
    exp_least: float
    exp_most: float
    expm1_least: float
    tanh_most: float
    erf_most: float
    exp: tuple[float, ...]
    expm1: tuple[float, ...]
    log: tuple[float, ...]
    erf: tuple[float, ...]

    @property
    def bias(self) -> int:
        return (1 << (self.integer.width - self.mantissa - 2)) - 1

    @property
    def least(self) -> float:
        """The least normal number."""
        return 2.0 ** (1 - self.bias)


FLOAT32 = Format(
    integer=ir.IntType(32),
    mantissa=23,
    ln2=(0.693145751953125, 1.4286068203094172e-06),
    exp_least=-88.0,
    exp_most=89.0,
    expm1_least=-20.0,
    tanh_most=10.0,
    erf_most=4.0,
    exp=(  # 0.049
        0.5000022848,
        0.1666319153,
        0.04185498376,
        0.007868415526,
        0.001912497251,
    ),
    expm1=(  # 0.22
        0.4999999815,
        0.1666654369,
        0.04166720004,
        0.008366514354,
        0.001388250185,
    ),
    log=(  # 0.014
        0.6666677635,
        0.399775454,
        0.2987163809,
    ),
    erf=(  # 0.0069
        1.128379167,
        0.6366198345,
        0.1027712776,
        -0.01911769694,
        -0.0002530561291,
        0.001799347427,
        -0.0007406811195,
        0.0001674789491,
        -2.13541559e-05,
        1.193260417e-06,
    ),
)
FLOAT64 = Format(
    integer=ir.IntType(64),
    mantissa=52,
    ln2=(0.6931471803691238, 1.9082149292705877e-10),
    exp_least=-709.0,
    exp_most=710.0,
    expm1_least=-40.0,
    tanh_most=20.0,
    erf_most=6.0,
    exp=(  # 0.036
        0.4999999999999738,
        0.16666666666790536,
        0.04166666664381921,
        0.008333333556873752,
        0.001388887576163221,
        0.00019841760627081135,
        2.478963196075606e-05,
        2.7745921443251873e-06,
        2.571064906806452e-07,
        3.506849546892524e-08,
    ),
    expm1=(  # 0.16
        0.5000000000000006,
        0.16666666666666588,
        0.041666666666576806,
        0.008333333333389453,
        0.00138888889315453,
        0.00019841269719262058,
        2.4801505300339045e-05,
        2.7557407317753377e-06,
        2.7626026409946233e-07,
        2.5053837896213134e-08,
    ),
    log=(  # 0.011
        0.6666666666666734,
        0.3999999999941473,
        0.28571428742384253,
        0.22222198572914076,
        0.18183564365471735,
        0.15314049031737864,
        0.14795968992562175,
    ),
    erf=(  # 0.19
        1.1283791670955126,
        0.6366197723675909,
        0.1027726033013153,
        -0.019128446993091196,
        -0.00020919485396959483,
        0.0016962076702396417,
        -0.0005901324320802092,
        2.5904506566162072e-05,
        6.442045482775263e-05,
        -2.9575635180517437e-05,
        3.169624538113713e-06,
        3.1330163939715976e-06,
        -2.037237808233394e-06,
        5.706681122867015e-07,
        -1.172862882238781e-08,
        -6.572429081704527e-08,
        3.458153969698362e-08,
        -1.0772421433054883e-08,
        2.360312775434682e-09,
        -3.760378260887546e-10,
        4.301383240668279e-11,
        -3.3640140654705516e-12,
        1.614698518791312e-13,
        -3.5917840998455775e-15,
    ),
)
FORMATS = {types.float32: FLOAT32, types.float64: FLOAT64}


def _constant(kind: Any, number: float) -> Any:
    """Of a scalar type of LLVM, or in each lane of a vector."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [ir.Constant(kind.element, number)] * kind.count)
    return ir.Constant(kind, number)


@dataclass(frozen=True)
class Number:
    """A number that LLVM will have, or a vector of numbers, with Python's arithmetic. Bare numbers beside it are of its
    kind."""

    builder: Any
    format: Format
    value: Any

    def of(self, number: Any) -> "Number":
        return number if isinstance(number, Number) else self.with_value(_constant(self.value.type, number))

    def with_value(self, value: Any) -> "Number":
        return Number(self.builder, self.format, value)

    def __add__(self, other: Any) -> "Number":
        return self.with_value(self.builder.fadd(self.value, self.of(other).value))

    def __sub__(self, other: Any) -> "Number":
        return self.with_value(self.builder.fsub(self.value, self.of(other).value))

    def __rsub__(self, other: Any) -> "Number":
        return self.of(other) - self

    def __mul__(self, other: Any) -> "Number":
        return self.with_value(self.builder.fmul(self.value, self.of(other).value))

    def __truediv__(self, other: Any) -> "Number":
        return self.with_value(self.builder.fdiv(self.value, self.of(other).value))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Number":
        return self.with_value(self.builder.fneg(self.value))

    def __abs__(self) -> "Number":
        return self.call("fabs")

    def call(self, name: str, *others: Any) -> "Number":
        """One of LLVM's own functions, which is an instruction or two."""
        values = [self.value, *(self.of(other).value for other in others)]
        kind = self.value.type
        lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        name = f"llvm.{name}.{lanes}f{self.format.integer.width}"
        signature = ir.FunctionType(kind, [kind] * len(values))
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.with_value(self.builder.call(function, values))

    def times_plus(self, factor: Any, term: Any) -> "Number":
        """self factor + term, rounded once where the processor can."""
        return self.call("fmuladd", factor, term)

    def signed_as(self, other: "Number") -> "Number":
        return self.call("copysign", other)

    def at_least(self, limit: float) -> "Number":
        """NaN stays NaN."""
        return where(self, "<", limit, limit, self)

    def at_most(self, limit: float) -> "Number":
        """NaN stays NaN."""
        return where(self, ">", limit, limit, self)

    def polynomial(self, coefficients: tuple[float, ...]) -> "Number":
        """Of self, its coefficients from the constant on (Horner)."""
        *lower, highest = coefficients
        total = self.of(highest)
        for coefficient in reversed(lower):
            total = total.times_plus(self, coefficient)
        return total

    @property
    def bits(self) -> Any:
        kind, integer = self.value.type, self.format.integer
        if isinstance(kind, ir.VectorType):
            integer = ir.VectorType(integer, kind.count)
        return self.builder.bitcast(self.value, integer)

    def of_bits(self, bits: Any) -> "Number":
        return self.with_value(self.builder.bitcast(bits, self.value.type))


def where(z: Number, relation: str, limit: float, then: Any, otherwise: Any) -> Number:
    """`then` where z stands in that relation to the limit, which NaN does not, else `otherwise`."""
    found = z.builder.fcmp_ordered(relation, z.value, z.of(limit).value)
    return z.with_value(z.builder.select(found, z.of(then).value, z.of(otherwise).value))


# The formulas.


def _reduced(z: Number, shift: float) -> tuple[Number, Number]:
    """(n, r) with z = n log(2) + r, n being z / log(2) + shift rounded to a whole number. n comes added to a number so
    large that it lies in the lowest bits."""
    large = 1.5 * 2.0**z.format.mantissa
    found = z.times_plus(1 / math.log(2), shift) + large
    n, (high, low) = found - large, z.format.ln2
    return found, n.times_plus(-low, n.times_plus(-high, z))


def _power_of_two(n: Number, factor: float) -> Number:
    """2 to the n, times 1 or 0.5; n as `_reduced` gives it. Below the least normal number it is 0, above the greatest
    inf: the exponent's bits say so of themselves."""
    builder, bits = n.builder, n.bits
    shifted = builder.shl(bits, _constant(bits.type, n.format.mantissa))
    return n.of_bits(builder.add(shifted, n.of(factor).bits))


def exp(z: Number) -> Number:
    """2 to the n, times exp(r) from 1 to 2: so n is the exponent of the result, and needs no room beyond."""
    form = z.format
    n, r = _reduced(z.at_least(form.exp_least).at_most(form.exp_most), -0.5)
    return r.times_plus(r.times_plus(r.polynomial(form.exp), 1.0), 1.0) * _power_of_two(n, 1.0)


def _expm1(z: Number) -> Number:
    """expm1 of z from expm1_least to exp_most; of -0 it is 0. With 2 to the n halved until the end, its exponent does
    not overflow before the result does."""
    n, r = _reduced(z, 0.0)
    rest, half = (r * r).times_plus(r.polynomial(z.format.expm1), r), _power_of_two(n, 0.5)
    return rest.times_plus(half, half - 0.5) * 2.0


def expm1(z: Number) -> Number:
    return _expm1(z.at_least(z.format.expm1_least).at_most(z.format.exp_most)).signed_as(z)


def tanh(z: Number) -> Number:
    """-e / (e + 2), where e = expm1(-2 |z|)."""
    e = _expm1(abs(z).at_most(z.format.tanh_most) * -2.0)
    return (e / (e + 2.0)).signed_as(z)


def erf(z: Number) -> Number:
    """-expm1(log(erfc(|z|))): one formula for all z, as the logarithm is nearly a parabola."""
    a = abs(z).at_most(z.format.erf_most)
    return _expm1(-(a * a.polynomial(z.format.erf))).signed_as(z)


def _logarithm(u: Number, error: Number | float) -> Number:
    """log(u), of a finite u above 0, and `error` more. u = 2^n (1 + f), 1 + f from sqrt(1/2) to sqrt(2); with
    s = f / (2 + f), log(1 + f) = 2 atanh(s) = f - (h - s (h + s² polynomial)), where h = f² / 2."""
    builder, form = u.builder, u.format
    least = u.of(math.sqrt(0.5)).bits
    above = builder.sub(u.bits, least)
    exponent = builder.ashr(above, _constant(above.type, form.mantissa))
    n = u.with_value(builder.sitofp(exponent, u.value.type))
    fraction = builder.and_(above, _constant(above.type, (1 << form.mantissa) - 1))
    f = u.of_bits(builder.add(fraction, least)) - 1.0
    s, h, (high, low) = f / (f + 2.0), f * f * 0.5, form.ln2
    w = s * s
    rest = s.times_plus(w.times_plus(w.polynomial(form.log), h), n.times_plus(low, error))
    return n.times_plus(high, f - (h - rest))


def log(z: Number) -> Number:
    y = where(z, "<", z.format.least, -math.inf, _logarithm(z, 0.0))
    y = where(z, "<", 0.0, math.nan, y)
    return where(z, "<", math.inf, y, z)


def log1p(z: Number) -> Number:
    """log(u) + (what 1 + z is more than u) / u, where u = 1 + z is rounded (Kahan)."""
    u = z + 1.0
    one = u - z
    error = (z - (u - one)) + (1.0 - one)
    y = where(z, "<=", -1.0, -math.inf, _logarithm(u, error / u))
    y = where(z, "<", -1.0, math.nan, y)
    return where(z, "<", math.inf, y, z).signed_as(z)


def _word(formula: Callable[[Number], Number]) -> Any:
    """A formula as a word."""

    @intrinsic
    def word(typing_context, z):
        if z not in FORMATS:
            return None

        def generate(context, builder, signature, arguments):
            return formula(Number(builder, FORMATS[z], arguments[0])).value

        return z(z), generate

    return word


WORDS = {formula.__name__: _word(formula) for formula in (exp, expm1, log, log1p, tanh, erf)}
