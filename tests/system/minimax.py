"""Where the coefficients of backends/cpu/mathematics.py come from: minimax polynomials by Remez' exchange.
`python minimax.py` prints them, each polynomial with its greatest error, in units of the roundoff of its dtype."""

import mpmath as mp

mp.mp.dps = 60
ROUNDOFF = {32: mp.mpf(2) ** -24, 64: mp.mpf(2) ** -53}
LN2 = mp.log(2)


def minimax(function, weight, degree, low, high):
    """(coefficients from the constant on, error) of the polynomial p of that degree for which the greatest
    |weight(x) (p(x) - function(x))| over [low, high] is least: at degree + 2 points the error has that size and
    alternating signs. The points are looked for on a grid, which near the optimum costs nothing to speak of."""
    count = degree + 2
    places = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * k / (24 * count)) for k in range(24 * count + 1)]
    grid = [(x, weight(x), function(x)) for x in places]
    chosen = [grid[12 + 24 * k] for k in range(count)]
    for _ in range(30):
        system = mp.matrix([[w * x**k for k in range(degree + 1)] + [(-1) ** i] for i, (x, w, _) in enumerate(chosen)])
        *coefficients, error = mp.lu_solve(system, mp.matrix([w * f for _, w, f in chosen]))
        errors = [w * (mp.polyval(coefficients[::-1], x) - f) for x, w, f in grid]
        peaks = []  # the greatest error of each run of one sign
        for point, e in zip(grid, errors, strict=True):
            if peaks and mp.sign(e) == mp.sign(peaks[-1][1]):
                peaks[-1] = max(peaks[-1], (point, e), key=lambda peak: abs(peak[1]))
            elif e:
                peaks.append((point, e))
        while len(peaks) > count:
            peaks.pop(0 if abs(peaks[0][1]) < abs(peaks[-1][1]) else -1)
        chosen = [point for point, _ in peaks]
        greatest = max(map(abs, errors))
        if greatest < abs(error) * mp.mpf("1.001"):
            return coefficients, greatest
    raise ArithmeticError(f"the exchange did not settle: {mp.nstr(greatest, 5)} for {mp.nstr(abs(error), 5)}")


def exponential_rest(r):
    """(exp(r) - 1 - r) / r²"""
    return sum((r**k / mp.factorial(k + 2) for k in range(45)), mp.mpf(0))


def logarithm_rest(w):
    """(2 atanh(s) / s - 2) / s², where w = s²."""
    return sum((2 * w**k / (2 * k + 3) for k in range(60)), mp.mpf(0))


def erf_exponent(a):
    """-log(erfc(a)) / a"""
    return -mp.log(mp.erfc(a)) / a if a else 2 / mp.sqrt(mp.pi)


def erf_weight(a):
    """By what an error of erf_exponent is multiplied, as a relative error of erf."""
    return a * mp.erfc(a) / mp.erf(a) if a else mp.sqrt(mp.pi) / 2


def polynomial(name, bits):
    """(coefficients, greatest relative error of the function that it serves)."""
    single = bits == 32
    slack = mp.mpf(2) ** -16 if single else mp.mpf(2) ** -40  # r is reduced by a rounded multiple of log(2)
    if name == "EXP":
        return minimax(exponential_rest, lambda r: r * r / mp.exp(r), 4 if single else 9, -slack, LN2 + slack)
    if name == "EXPM1":
        rest, edge = exponential_rest, LN2 / 2 + slack
        return minimax(rest, lambda r: abs(r) / (1 + r * rest(r)), 4 if single else 9, -edge, edge)
    if name == "LOG":
        s = (mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)
        return minimax(logarithm_rest, lambda w: w / 2, 2 if single else 6, mp.mpf(0), s * s)
    assert name == "ERF"
    return minimax(erf_exponent, erf_weight, 9 if single else 23, mp.mpf(0), mp.mpf(4 if single else 6))


NAMES = "EXP", "EXPM1", "LOG", "ERF"

if __name__ == "__main__":
    for bits, roundoff in ROUNDOFF.items():
        for name in NAMES:
            coefficients, error = polynomial(name, bits)
            print(f"{name}[{bits}]: {mp.nstr(error / roundoff, 3)}")
            print(*(f"    {mp.nstr(c, 10 if bits == 32 else 18)}," for c in coefficients), sep="\n")
