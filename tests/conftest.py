"""float64 on, unless JAX_ENABLE_X64=0: CI runs the derivative tests a second time so.

Most of the suite's time is compilation, so XLA optimises little here unless GRU_JAX_TESTS_OPTIMIZED=1, as in CI on Python 3.12.
Two flags take two thirds of what is left: each program goes to LLVM in one part, and on jaxlib 0.10 without MLIR before it. A jaxlib
ends at a flag it does not know, so only those have them that do.

Many tests compile the same programs: each process keeps what it compiled, in a folder of its own that goes when it ends. What it has
in memory is let go from time to time: a program takes about ten of the 65,530 mappings that Linux gives a process, which then crashes.
"""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import jax
import pytest

optimized = os.environ.get("GRU_JAX_TESTS_OPTIMIZED", "0") != "0"
jax.config.update("jax_disable_most_optimizations", not optimized)
if version("jaxlib").startswith(("0.10.", "0.12.")):
    flags = ["--xla_cpu_parallel_codegen_split_count=1"]
    if not optimized and version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [os.environ.get("XLA_FLAGS", ""), *flags]))
jax.config.update("jax_enable_x64", os.environ.get("JAX_ENABLE_X64", "1") != "0")

compiled = tempfile.mkdtemp(prefix="gru_jax_tests_")
atexit.register(shutil.rmtree, compiled, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", compiled)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def _highest_matmul_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _programs_are_let_go():
    yield
    mappings = Path("/proc/self/maps")  # Linux only
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def needs_x64():
    """Skips a test that compares with float64 where the run has none."""
    if not jax.config.jax_enable_x64:
        pytest.skip("float64 is off in this run")
