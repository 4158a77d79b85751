"""The examples of the two texts, and how far a number may lie from a printed one."""

import numpy as np

import fusedmlp as fm
from tolerance import unit_roundoff

# Text A's network of 3 inputs, 2 hidden units and 1 output; it prints W as (in, out), the library's is (out, in).
HIDDEN = np.array([[0.2, -0.3], [0.4, 0.1], [-0.5, 0.2]]).T
HIDDEN_BIAS = np.array([-0.4, 0.2])
OUTPUT = np.array([[-0.3], [-0.2]]).T
OUTPUT_BIAS = np.array([0.1])
X = np.array([1, 0, 1])
T = np.array([1])

# The crop table: temperature, rainfall, humidity; apples, oranges.
CROP_X = np.array([[73, 67, 43], [91, 88, 64], [87, 134, 58], [102, 43, 37], [69, 96, 70]] * 3)
CROP_Y = np.array([[56, 70], [81, 101], [119, 133], [22, 37], [103, 119]] * 3)
CROP_WEIGHT = np.array([[0.4414, 0.4792, -0.1353], [0.5304, -0.1265, 0.1165]])
CROP_BIAS = np.array([-0.2811, 0.3391])


def network(activation, backend, dtype):
    """Text A's network, the same activation everywhere."""
    init = [HIDDEN, HIDDEN_BIAS, OUTPUT, OUTPUT_BIAS]
    return fm.MLP([3, 2, 1], activation, activation, init=init, dtype=dtype, backend=backend)


def close(got, printed, digits, dtype, roundings=128, scale=1.0):
    """Raises unless `got` is the printed number: within half a unit of the last of its `digits` decimals, and as many
    roundings of numbers up to `scale`.

    Of text A's network, with numbers up to 1: a layer's z adds 4 terms of rounded inputs (9), its sigmoid takes 16; the
    output's the same; loss and gradient 16 each, back through a layer another 32, the update 3: 117 for a step.
    """
    allowed = 0.5 * 10.0**-digits + roundings * scale * unit_roundoff(dtype)
    np.testing.assert_allclose(np.asarray(got, np.float64), printed, rtol=0, atol=allowed)


def crop_model(backend, dtype, **options):
    return fm.MLP([3, 2], init=[CROP_WEIGHT, CROP_BIAS], dtype=dtype, backend=backend, **options)
