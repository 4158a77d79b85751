"""A formula stands in one place: one constant of one rule is changed in a scratch copy of the sources, and on every
backend just the rows of the conformance suite fail whose formulas use it."""

import json

import pytest

import processes

BACKENDS = ("python", "cpu")
ALONE = ("test_activate", "test_activation_backward", "test_softmax_kernels", "test_loss", "test_optimizer")
DENSE = ("test_dense_forward", "test_dense_backward")

SIGMOID = {
    "activate": ["sigmoid", "silu"],
    "dense_forward": ["sigmoid", "silu"],
    # sigmoid's own gradient is a (1 - a) of the output that was saved; softplus' is sigmoid's value.
    "activation_backward": ["silu", "softplus", "softplus_beta=2.0", "softplus_beta=0.5_threshold=3.0"],
    "dense_backward": ["silu", "softplus", "softplus_beta=2.0", "softplus_beta=0.5_threshold=3.0"],
    "loss": ["binary_cross_entropy_with_logits binary", "binary_cross_entropy_with_logits probability"],
}
CROSS_ENTROPY = {"loss": ["cross_entropy index"]}
SOFTMAX = {
    "activate": ["softmax", "log_softmax"],
    "dense_forward": ["softmax", "log_softmax"],
    "softmax_kernels": ["softmax", "log_softmax"],
    "loss": ["cross_entropy onehot", "cross_entropy distribution"],  # class indices: rows together, the next mutation
}
ADAM = {
    "optimizer": [
        *("Adam", "Adam_lr=0.05", "Adam_lr=0.05_betas=(0.7,0.9)_eps=0.001", "Adam_lr=0.05_weight_decay=0.1"),
        *("AdamW", "AdamW_lr=0.05", "AdamW_lr=0.05_weight_decay=0.5"),
    ]
}

# The file, what stands there once, what takes its place, the rows that use it, and the tests that the cpu backend
# runs: those rows and some others, as few as are worth their compiling. The python backend runs all.
MUTATIONS = {
    "sigmoid": (
        "activations.py",
        "const(z, 1) / (const(z, 1) + exp(-z))",
        "const(z, 1) / (const(z, 1.01) + exp(-z))",
        SIGMOID,
        (*ALONE, *DENSE),
    ),
    "cross_entropy": (
        "losses.py",
        "gradient[i, k[i]] -= w[i]",
        "gradient[i, k[i]] -= w[i] * const(w[i], 1.01)",
        CROSS_ENTROPY,
        ("test_loss", "test_optimizer"),
    ),
    "softmax": (
        "summation.py",
        "part = stretch_exp(",
        "part = const(m, 1.01) * stretch_exp(",
        SOFTMAX,
        ("test_activate", "test_activation_backward", "test_softmax_kernels", "test_loss"),
    ),
    "softmax of rows": (
        "summation.py",
        "rows_exp(c, z, m, y, s)",
        "rows_exp(c, z, m, y, m)",
        CROSS_ENTROPY,
        ("test_loss", "test_softmax_kernels"),
    ),
    "adam": (
        "optimizers.py",
        "(1.0 - beta2**t) ** -0.5",
        "(1.0 - beta2**t) ** -0.51",
        ADAM,
        ("test_loss", "test_optimizer"),
    ),
}


# The rows that run on the CUDA simulator, where a row takes about a second.
SIMULATED = {"sigmoid": ("test_dense_forward",), "cross_entropy": ("test_loss",), "adam": ("test_optimizer",)}


def run(root, tests, **environment):
    """{backend: {row: how it failed, or ""}} of a run of the conformance suite below `root`."""
    report = root / "report.json"
    finished = processes.start(
        *("-m", "pytest", "-q", "-p", "selected", "-p", "no:cacheprovider", "--tb=no", "tests/conformance"),
        cwd=root,
        root=root,
        NUMBA_CACHE_DIR=root / "compiled",
        SELECTED=json.dumps({"tests": tests, "report": str(report)}),
        FUSEDMLP_TEST_BACKENDS=",".join(tests),
        FUSEDMLP_REQUIRE_BACKENDS=1,
        **environment,
    )
    output, errors = finished.communicate(timeout=500)
    assert finished.returncode in (0, 1), f"{output}\n{errors}"
    found = {backend: {} for backend in tests}
    for backend, row, error in json.loads(report.read_text()):
        found[backend][row] = error
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_changed_constant_fails_the_rows_that_use_it(tmp_path, mutation):
    file, old, new, users, compiled = MUTATIONS[mutation]
    root = processes.scratch_copy(tmp_path)
    processes.rewrite(root / "kernels" / file, old, new)
    tests = {backend: compiled if backend == "cpu" else (*ALONE, *DENSE) for backend in BACKENDS}
    check(run(root, tests), users)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", SIMULATED)
def test_changed_constant_fails_its_rows_on_the_cuda_simulator(tmp_path, mutation):
    """In a run of its own: the simulator must be chosen before Numba is imported."""
    file, old, new, users, _ = MUTATIONS[mutation]
    root = processes.scratch_copy(tmp_path)
    processes.rewrite(root / "kernels" / file, old, new)
    check(run(root, {"simulator": SIMULATED[mutation]}, NUMBA_ENABLE_CUDASIM=1), users)


def check(found, users):
    """Just the rows of `users` failed, of those that ran."""
    for backend, rows in found.items():
        ran = {row.split()[0] for row in rows}
        expected = {f"{test} {formula}" for test, formulas in users.items() if test in ran for formula in formulas}
        assert len(rows) > len(expected) > 0
        assert {row for row, error in rows.items() if error} == expected, backend
        # They fail because they are wrong, and for nothing else.
        assert all("tolerance" in error for error in rows.values() if error), backend
