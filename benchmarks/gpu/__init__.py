"""Everything that only a GPU can show, in one run: `python -m fusedmlp.benchmarks.gpu`, or `make gpu`.

The conformance suite and the tests of tests/gpu on the device, NVIDIA's compute-sanitizer over every kernel, then our
trainings in turns with PyTorch's and JAX's, and the kernels alone beside what the card does in the same run.
"""
