"""The kernel of the fused loop: its operands, how they are padded, and the loop itself."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._engine.fused_values import Chunks, Unsupported, Value, Weight, evaluate
from gru_jax._engine.plan_kernel import FUSED_TILE, Kernel, fused_warps
from gru_jax._jax.jaxprs import Literal as JaxprLiteral
from gru_jax._jax.kernels import BlockSpec, call_kernel, ds
from gru_jax._jax.sharding import shape_like, vary_like

DTYPES = ("float32", "bfloat16", "float16", "int32", "bool")


@dataclass(frozen=True)
class Slot:
    """An operand or a result of the kernel.

    Attributes:
        chunks: How units are cut into chunks.
        shape: The shape at one step, for one tile of the batch.
        dtype: The dtype at one step. Booleans are kept as integers outside the step.
        kind: Whether it is the same for all programs of the grid, has the batch as its first axis,
            or time and then the batch.
    """

    chunks: Chunks
    shape: tuple[int, ...]
    dtype: Any
    kind: Literal["constant", "weight", "sequence", "time"]

    def padded_shape(self, steps: int, batch: int) -> tuple[int, ...]:
        """The shape of the whole array with its padding."""
        if self.kind == "weight":
            return tuple(self.chunks.count(size) * self.chunks.width(size) for size in self.shape)
        padded = self.chunks.padded(self.shape) if self.shape else ()
        whole_batch = -(-batch // FUSED_TILE) * FUSED_TILE
        return padded if self.kind == "constant" else (steps, whole_batch)[self.kind == "sequence" :] + padded[1:]

    def pad(self, leaf: jax.Array, steps: int, batch: int) -> jax.Array:
        """Pads an operand with zeros."""
        leaf = leaf.astype(self.stored_dtype)
        widths = [(0, new - old) for old, new in zip(leaf.shape, self.padded_shape(steps, batch), strict=True)]
        return jnp.pad(leaf, widths) if any(width for _, width in widths) else leaf

    def unpad(self, leaf: jax.Array, batch: int) -> jax.Array:
        """Takes the padding off a result."""
        leading = leaf.shape[: self.kind == "time"]
        return lax.slice(leaf, (0,) * leaf.ndim, (*leading, batch, *self.shape[1:]))

    @property
    def stored_dtype(self) -> Any:
        """The dtype outside the step."""
        return jnp.dtype(jnp.int32) if self.dtype == bool else self.dtype

    def block(self, steps: int, batch: int) -> BlockSpec:
        """What one program of the grid sees."""
        shape = self.padded_shape(steps, batch)
        if self.kind in ("constant", "weight"):
            return BlockSpec(shape, lambda i: (0,) * len(shape))
        if self.kind == "sequence":
            return BlockSpec((FUSED_TILE, *shape[1:]), lambda i: (i,) + (0,) * (len(shape) - 1))
        return BlockSpec((steps, FUSED_TILE, *shape[2:]), lambda i: (0, i) + (0,) * (len(shape) - 2))

    def _places(self, t: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """The index of each chunk."""
        if not self.shape:
            return [(*t,)]
        count, width = self.chunks.count(self.shape[-1]), self.chunks.width(self.shape[-1])
        units = [slice(None)] if count == 1 else [ds(i * width, width) for i in range(count)]
        return [(*t, *(slice(None),) * (len(self.shape) - 1), each) for each in units]

    def load(self, ref: Any, t: tuple[Any, ...] = ()) -> Value:
        """Reads the value, at step t if it has steps."""
        parts = (ref[place] for place in self._places(t))
        return tuple(part != 0 for part in parts) if self.dtype == bool else tuple(parts)

    def store(self, ref: Any, value: Value, t: tuple[Any, ...] = ()) -> None:
        """Writes the value."""
        for place, part in zip(self._places(t), value, strict=True):
            ref[place] = part

    def weight(self, ref: Any, resident: bool) -> Weight:
        """A matrix of weights, loaded once, or block by block at each step."""
        rows, columns = map(self.chunks.width, self.shape)
        read = lambda i, j: ref[ds(i * rows, rows), ds(j * columns, columns)]
        if not resident:
            return Weight(read)
        counts = [range(self.chunks.count(size)) for size in self.shape]
        blocks = {(i, j): read(i, j) for i in counts[0] for j in counts[1]}
        return Weight(lambda i, j: blocks[i, j])


def run_kernel(
    kernel: Kernel, program: Any, reverse: bool, per_sequence: Sequence[Any], carry: Sequence[Any], at_all_t: Sequence[Any]
) -> list[Any]:
    """Runs a step's program over all steps. All arrays have one batch axis.

    Args:
        kernel: How it is run.
        program: The closed jaxpr of one step for a tile, without calls, of flat
            `(*per_sequence, *carry, *at_t)`, which returns `(*carry, *results)`.
        reverse: Whether to run from the last step to the first.
        per_sequence: What all steps of a sequence share.
        carry: The state before the first step.
        at_all_t: The arrays of all steps.

    Raises:
        Unsupported: If the kernel lacks something.
    """
    jaxpr, (steps, batch) = program.jaxpr, at_all_t[0].shape[:2]
    chunks = Chunks.of(jaxpr, kernel.chunk)
    slots_of = lambda kind, variables: [Slot(chunks, var.aval.shape, var.aval.dtype, kind) for var in variables]
    num_fixed, num_carry = len(per_sequence), len(carry)
    fixed, state = slots_of("sequence", jaxpr.invars[:num_fixed]), slots_of("sequence", jaxpr.outvars[:num_carry])
    at_t, results = slots_of("time", jaxpr.invars[num_fixed + num_carry :]), slots_of("time", jaxpr.outvars[num_carry:])
    copies = weights_of(jaxpr)
    constants = [slots_of("weight" if var in copies else "constant", [var])[0] for var in jaxpr.constvars]
    operands, out = [*constants, *fixed, *state, *at_t], [*state, *results]
    for slot in (*operands, *out):
        if slot.dtype not in DTYPES and not (kernel.interpret and slot.dtype == "float64"):
            raise Unsupported(f"arrays of dtype {slot.dtype}")
    if any(slot.dtype == bool for slot in out):
        raise Unsupported("booleans in its state, or among what it saves")
    weights = [slot for slot in constants if slot.kind == "weight"]
    units = max((size for slot in weights for size in slot.shape), default=1)
    held = sum(
        copies[var] * math.prod(slot.padded_shape(steps, batch)) * slot.dtype.itemsize
        for var, slot in zip(jaxpr.constvars, constants, strict=True)
        if slot.kind == "weight"
    )
    resident = held + kernel.for_operands(units) <= kernel.shared_memory

    def body(*refs: Any) -> None:
        edges = list(itertools.accumulate(map(len, (constants, fixed, state, at_t, state))))
        groups = [refs[start:end] for start, end in itertools.pairwise([0, *edges, len(refs)])]
        constant_refs, fixed_refs, start_refs, time_refs, last_refs, result_refs = groups
        load = lambda slots, refs: [slot.load(ref) for slot, ref in zip(slots, refs, strict=True)]
        loaded = [
            slot.weight(ref, resident) if slot.kind == "weight" else slot.load(ref)
            for slot, ref in zip(constants, constant_refs, strict=True)
        ]
        fixed_values = load(fixed, fixed_refs)

        def one_step(i: Any, values: Any) -> Any:
            t = (steps - 1 - i if reverse else i,)
            now = [slot.load(ref, t) for slot, ref in zip(at_t, time_refs, strict=True)]
            found = evaluate(chunks, jaxpr, loaded, [*fixed_values, *values, *now])
            for slot, ref, value in zip(results, result_refs, found[num_carry:], strict=True):
                slot.store(ref, value, t)
            return found[:num_carry]

        last = lax.fori_loop(0, steps, one_step, load(state, start_refs))
        for slot, ref, value in zip(state, last_refs, last, strict=True):
            slot.store(ref, value)

    leaves = [*program.consts, *per_sequence, *carry, *at_all_t]
    padded = vary_like([slot.pad(leaf, steps, batch) for slot, leaf in zip(operands, leaves, strict=True)], leaves)
    found = call_kernel(
        body,
        -(-batch // FUSED_TILE),
        [slot.block(steps, batch) for slot in operands],
        [slot.block(steps, batch) for slot in out],
        [shape_like(slot.padded_shape(steps, batch), slot.stored_dtype, padded[0]) for slot in out],
        padded,
        warps=kernel.warps or fused_warps(units, resident),
        interpret=kernel.interpret,
        name="fused_loop_reverse" if reverse else "fused_loop",
    )
    return [slot.unpad(leaf, batch) for slot, leaf in zip(out, found, strict=True)]


def weights_of(jaxpr: Any) -> dict[Any, int]:
    """The constants that are matrices, and only ever the right operand of a product.

    Each with how often the shared memory holds it: once for each of its axes that products sum over.
    """
    summed: dict[Any, set[tuple[int, ...]]] = {}
    otherwise = {var for var in jaxpr.outvars if not isinstance(var, JaxprLiteral)}
    for equation in jaxpr.eqns:
        for position, var in enumerate(equation.invars):
            if isinstance(var, JaxprLiteral):
                continue
            if equation.primitive.name == "dot_general" and position == 1 and var.aval.ndim == 2:
                (_, axes), _ = equation.params["dimension_numbers"]
                summed.setdefault(var, set()).add(tuple(axes))
            else:
                otherwise.add(var)
    return {var: len(axes) for var, axes in summed.items() if var not in otherwise}
