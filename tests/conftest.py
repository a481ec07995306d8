"""Configures JAX for the tests.

- float64 is on, unless JAX_ENABLE_X64=0. CI runs the derivative tests a second time without it.
- Most of XLA's optimisations are off, unless GRU_JAX_TESTS_OPTIMIZED=1, as in CI on Python 3.12.
  The suite spends most of its time compiling, and this shortens it. Two flags save two thirds of the
  rest: one compiles each program as a single LLVM module, and the other turns off the fusion
  emitters of jaxlib 0.10. jaxlib exits if it does not know a flag, so each flag is set only where
  it exists. Processes that tests start inherit all this from the environment.
- Compiled programs are cached on disk, in `.jax_cache` or in the directory that
  JAX_COMPILATION_CACHE_DIR names. The next run finds them there, and so do the other workers of
  pytest-xdist and the processes that tests start. `.jax_cache` starts anew when it exceeds 500 MB.
- From time to time a process clears the programs in memory. Each of them takes about ten memory
  mappings, and a process that exceeds Linux's limit of 65,530 mappings crashes.
- Python looks for unreachable cycles less often, because each search visits the many objects that
  JAX keeps.
"""

import gc
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import jax
import pytest

gc.set_threshold(50_000, 50, 100)

optimized = os.environ.get("GRU_JAX_TESTS_OPTIMIZED", "0") != "0"
jax.config.update("jax_disable_most_optimizations", not optimized)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(not optimized))
if version("jaxlib").startswith(("0.10.", "0.12.")):
    flags = ["--xla_cpu_parallel_codegen_split_count=1"]
    if not optimized and version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [os.environ.get("XLA_FLAGS", ""), *flags]))
jax.config.update("jax_enable_x64", os.environ.get("JAX_ENABLE_X64", "1") != "0")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # the first process chooses the directory, before it starts its workers
    compiled = Path(__file__).parents[1] / ".jax_cache"
    if compiled.exists() and sum(path.stat().st_size for path in compiled.iterdir()) > 500e6:
        shutil.rmtree(compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compiled)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
for option, value in (("jax_persistent_cache_min_compile_time_secs", 0), ("jax_persistent_cache_min_entry_size_bytes", -1)):
    jax.config.update(option, value)
    os.environ[option.upper()] = str(value)


@pytest.fixture(autouse=True)
def _highest_matmul_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_are_cleared():
    yield
    mappings = Path("/proc/self/maps")  # Linux only
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def needs_x64():
    """Skips the test if float64 is off."""
    if not jax.config.jax_enable_x64:
        pytest.skip("float64 is off in this run")
