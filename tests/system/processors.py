"""Scripts of these tests run as if compiled for processors with narrower vectors, which this one can stand for."""

import llvmlite.binding as llvm
import pytest

import processes

# Name, features and the bits of a vector. The last has no fused multiply-add.
NARROWER = pytest.mark.parametrize(
    "processor",
    [("haswell", "+sse2,+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+popcnt", 256), ("x86-64", "+sse2", 128)],
    ids=["AVX2", "128 bits"],
)


def run_as(processor, script, folder):
    """`python script` as on that processor, with a kernel cache of its own in `folder`: it ends well and says of how
    many bits its vectors were. Skips the test where this processor lacks a feature."""
    name, features, bits = processor
    host = llvm.get_host_cpu_features()
    if not all(host.get(feature[1:]) for feature in features.split(",")):
        pytest.skip(f"this processor has not {features}")
    changes = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": folder}
    output, _ = processes.finish(processes.start(script, **changes), timeout=600)
    assert f"vectors of {bits} bits" in output
