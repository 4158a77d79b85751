"""What the library is measured by: cases, peers in processes of their own, and the tables made from them.

`python -m fusedmlp.benchmarks` runs everything that the machine has; `pytest benchmarks/` times single
kernels.
"""
