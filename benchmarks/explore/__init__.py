"""What a GPU can do, measured before anything is tuned for it: `python -m fusedmlp.benchmarks.explore`.

Each section is a module with `explore(notes)`, run in a process of its own, which is ended when its time is up: a
barrier that never opens, or a library that ends its process, costs one section.
"""
