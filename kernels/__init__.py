"""What is computed: rules, bodies, vocabulary and program. Nothing here names a device."""

if __name__ != "fusedmlp.kernels":  # run inside the checkout, which would load every module a second time
    raise ImportError("there is no package `kernels`: import `fusedmlp.kernels`")
