"""What a compiled kernel needs of a GPU: registers, spills and shared memory."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

_LAUNCHED = r"kCustomKernel.*\] {name} grid: \[(\d+), 1, 1\] threads: \[(\d+), 1, 1\]\s+shared_memory: (\d+) bytes"
_REGISTERS = re.compile(r"Used (\d+) registers")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_MATMUL = re.compile(r"\b(?:wgmma\.mma_async|mma)\.sync\S*?\.(tf32|bf16|f16)\.")
_ARCHITECTURE = re.compile(r"^\.target (\w+)", re.MULTILINE)


class KernelNeeds(NamedTuple):
    """What one kernel needs.

    Attributes:
        programs: How many blocks of threads it has.
        warps: How many warps of 32 threads each of them has.
        registers: Registers of a thread, of 255.
        spill_bytes: Bytes that a thread writes to memory, once in the assembly, for lack of
            registers.
        shared_kib: Shared memory of a block of threads.
        matmul: The dtype in which tensor cores multiply. `"fma"` if they are not used.
    """

    programs: int
    warps: int
    registers: int
    spill_bytes: int
    shared_kib: float
    matmul: str


def find_ptxas() -> str:
    """Returns the path of NVIDIA's assembler, that of the extra `gpu-compile` if it is installed.

    Raises:
        FileNotFoundError: If there is none.
    """
    import nvidia

    for root in nvidia.__path__:
        for path in Path(root).glob("cu*/bin/ptxas"):
            return str(path)
    if found := shutil.which("ptxas"):
        return found
    raise FileNotFoundError("ptxas: found none, expected that of nvidia-cuda-nvcc. Run pip install 'gru_jax[gpu-compile]'.")


def kernel_needs(name: str, thunks: str, ptx: tuple[str, ...]) -> KernelNeeds:
    """Assembles the kernel `name` of a compiled program, and returns what it needs.

    Raises:
        ValueError: If the program has no such kernel, or more than one.
    """
    launched = set(re.findall(_LAUNCHED.format(name=re.escape(name)), thunks))
    files = [text for text in ptx if f".entry {name}(" in text]
    if len(launched) != 1 or len(files) != 1:
        raise ValueError(
            f"kernel {name}: got {len(launched)} launches and {len(files)} files of assembly, expected one of each."
        )
    printed = assembled(files[0])
    ((programs, threads, shared),) = launched
    registers, spills = _REGISTERS.search(printed), _SPILLS.search(printed)
    if registers is None or spills is None:
        raise ValueError(f"kernel {name}: got {printed!r} from ptxas -v, expected its registers and spills.")
    matmul = "/".join(sorted(set(_MATMUL.findall(files[0])))) or "fma"
    return KernelNeeds(int(programs), int(threads) // 32, int(registers[1]), int(spills[1]), int(shared) / 1024, matmul)


def assembled(ptx: str) -> str:
    """Assembles the text of a PTX file. Returns what the assembler says about it."""
    (architecture,) = _ARCHITECTURE.findall(ptx)
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "kernel.ptx"
        source.write_text(ptx, "utf-8")
        command = [find_ptxas(), "-v", f"-arch={architecture}", str(source), "-o", str(source.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stderr + done.stdout
