"""Compiles for a GPU that need not be there, given a description of it as XLA writes it.

Import it only in a process that has not used a device yet, with the environment `ENVIRONMENT`.
"""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax

TARGETS = Path(__file__).parent
# The plugin looks for a driver and cuDNN when it is loaded, and neither is needed to compile.
ENVIRONMENT = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "JAX_PLATFORMS": ""}
MATMULS = {"Triton": {}, "cublasLt": {"xla_gpu_enable_triton_gemm": False}}


def require_compiler(experiment: str) -> None:
    """Exits with the command that installs what compiles for a GPU, where it is missing."""
    if find_spec("jax_plugins") is None or find_spec("jax_plugins.xla_cuda13") is None:
        raise SystemExit(
            f"{experiment}: got no jax-cuda13-plugin, expected the packages that compile for a GPU; no GPU is needed. "
            "Run pip install 'gru_jax[gpu-compile]' in an environment of its own: JAX looks for a GPU wherever the plugin is."
        )


class Compiled(NamedTuple):
    """A program compiled for a target.

    Attributes:
        text: The optimised program.
        thunks: The sequence of its launches.
        temp_bytes: Its memory for temporaries.
        ptx: The assembly of its kernels, in files.
    """

    text: str
    thunks: str
    temp_bytes: int
    ptx: tuple[str, ...] = ()


class Target:
    """A GPU to compile for."""

    def __init__(self, path: Path) -> None:
        from jax.experimental import topologies

        description = path.read_text("utf-8")
        topology = topologies.get_topology_desc("", platform="cuda", target_config=description, topology="1x1x1")
        device: Any = topology.devices[0]
        self.device = device
        cores = int(description.split("core_count:")[1].split()[0])
        abstract = jax.sharding.AbstractDevice(device.device_kind, cores, platform="gpu")
        self.mesh = jax.sharding.AbstractMesh((), (), abstract_device=abstract)

    def compile(self, function: Callable[..., Any], *arguments: Any, matmuls: str = "Triton") -> Compiled:
        """Compiles `jax.jit(function)` for arguments of these shapes."""
        sharding = jax.sharding.SingleDeviceSharding(self.device)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), arguments)
        with jax.sharding.use_abstract_mesh(self.mesh), tempfile.TemporaryDirectory() as directory:
            lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",))
            options = {"xla_dump_to": directory, "xla_dump_hlo_as_text": True, **MATMULS[matmuls]}
            compiled = lowered.compile(compiler_options=options)
            files = {path.name: path for path in Path(directory).iterdir()}
            after_passes = [path for name, path in files.items() if "thunk_sequence_after" in name]
            thunks = after_passes or [path for name, path in files.items() if "thunk_sequence" in name]
            text, memory = compiled.as_text(), compiled.memory_analysis()
            ptx = tuple(path.read_text("utf-8") for name, path in sorted(files.items()) if name.endswith(".ptx"))
            return Compiled(text or "", thunks[0].read_text("utf-8"), memory.temp_size_in_bytes, ptx)
