"""The plan of a call: its rules at their thresholds, device probes, and explicit requests."""

import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax.sharding import PartitionSpec as P

import gru_jax as gj
from gru_jax._engine import plan as plan_module
from gru_jax._engine.plan import Device, Plan, Shapes, make_plan, probe
from gru_jax._jax.tracing import vmapped

AUTO, STATES, GATES = gj.CustomVJP(), gj.CustomVJP(residuals="states"), gj.CustomVJP(residuals="gates")


def decisions(request, steps, sequences, units, *, device=None, last_only=False, itemsize=4):
    plan = make_plan(Shapes(steps, sequences, units, itemsize), device or Device(), request, last_only=last_only)
    return plan.residuals, plan.block_size


@pytest.mark.parametrize(
    ("request_", "steps", "sequences", "units", "expected"),
    [
        # a sequence of fewer than 2^19 states is one block, a larger one is cut
        (AUTO, 127, 64, 64, ("gates", None)),
        (AUTO, 128, 64, 64, ("states", 32)),
        # unless the user requests states, in order to save memory
        (STATES, 96, 64, 64, ("states", 32)),
        (STATES, 100, 1, 64, ("states", None)),
        # one block saves its gates if a step has at least 512 states
        (AUTO, 100, 8, 64, ("gates", None)),
        (AUTO, 100, 8, 63, ("states", None)),
        # gates are saved for at least 256 units, also with several blocks
        (AUTO, 100, 1, 255, ("states", None)),
        (AUTO, 100, 1, 256, ("gates", None)),
        (AUTO, 4_096, 8, 256, ("gates", 64)),
        # loops over steps have at most 4,096 steps if blocks are possible
        (AUTO, 4_096, 2, 16, ("states", None)),
        (AUTO, 20_000, 1, 16, ("states", 4_000)),
        # blocks have about 2^17 states, at least 512 rows, and a divisor of the steps where one is near
        (AUTO, 8_000, 8, 32, ("states", 500)),
        (AUTO, 8_000, 8, 512, ("gates", 64)),
        (AUTO, 8_009, 8, 32, ("states", 512)),
        (GATES, 8_000, 8, 32, ("gates", 500)),
        # blocks have at least √T / 4 steps, here with long sequences of large steps
        (AUTO, 10_000, 1_024, 64, ("states", 25)),
        # explicit requests are kept
        (gj.CustomVJP(block_size=7), 100, 1, 128, ("states", 7)),
        (gj.CustomVJP(block_size=100), 100, 16, 128, ("gates", None)),
        (gj.CustomVJP("gates", 7), 100, 1, 8, ("gates", 7)),
        (AUTO, 0, 3, 5, ("states", None)),
        (AUTO, 5, 0, 5, ("states", None)),
    ],
)
def test_residuals_and_blocks_follow_the_shapes(request_, steps, sequences, units, expected):
    assert decisions(request_, steps, sequences, units) == expected


@pytest.mark.parametrize(
    ("request_", "steps", "sequences", "units", "expected"),
    [
        (AUTO, 100_000, 1, 128, ("block_starts", 1_000)),
        (AUTO, 100, 1, 128, ("states", None)),
        (STATES, 100_000, 1, 128, ("states", 1_000)),
        (gj.CustomVJP(block_size=7), 100, 1, 300, ("block_starts", 7)),
    ],
)
def test_block_starts_are_saved_where_only_the_last_state_is_wanted(request_, steps, sequences, units, expected):
    assert decisions(request_, steps, sequences, units, last_only=True) == expected


def test_the_plan_depends_on_the_share_of_one_device_and_on_the_size_of_vmap_axes():
    assert decisions(AUTO, 127, 256, 64, device=Device(batch_shards=4)) == ("gates", None)
    assert decisions(AUTO, 127, 256, 64, device=Device(batch_shards=4, vmapped=5)) == ("states", 6)
    assert decisions(AUTO, 127, 5, 64, device=Device(vmapped=16)) == decisions(AUTO, 127, 80, 64)


def test_explicit_meshes_accelerators_and_several_gpus_run_one_block():
    for device in (Device(explicit_batch=True), Device("gpu", sums_over_devices=True), Device("tpu")):
        assert decisions(AUTO, 100_000, 8, 64, device=device) == ("states", None)
        assert decisions(gj.CustomVJP(block_size=50), 100_000, 8, 64, device=device) == ("states", 50)


@pytest.mark.parametrize(
    ("request_", "steps", "last_only", "expected"),
    [
        (AUTO, 1_000, False, ("states", 250, 10)),
        (AUTO, 1_000, True, ("states", 250, 10)),  # a second forward pass would be launched step by step
        (GATES, 100, False, ("gates", 25, 5)),
        (AUTO, 16, False, ("states", None, 8)),
        (AUTO, 17, False, ("states", 8, 8)),
        (gj.CustomVJP(block_size=7), 100, True, ("block_starts", 7, 7)),
        (AUTO, 13, False, ("states", None, 13)),
        (AUTO, 17 * 4, False, ("states", 17, 8)),
        (AUTO, 0, False, ("states", None, 8)),
    ],
)
def test_a_gpu_runs_four_blocks_and_several_steps_per_round(request_, steps, last_only, expected):
    for units in (64, 512):
        plan = make_plan(Shapes(steps, 32, units), Device("gpu"), request_, last_only=last_only)
        assert (plan.residuals, plan.block_size, plan.unroll) == expected
        assert plan.few_launches


def test_a_program_is_planned_for_the_device_that_it_is_compiled_for():
    gpu = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    assert probe(jnp.zeros((2, 3, 4)), ()).platform == "cpu"
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=gpu)):
        assert probe(jnp.zeros((2, 3, 4)), ()).platform == "gpu"


@pytest.mark.parametrize(
    ("request_", "steps", "units", "last_only", "expected"),
    [
        (AUTO, 400, 8, False, ("states", 20)),
        (AUTO, 401, 512, False, ("states", 20)),
        (AUTO, 100, 8, True, ("block_starts", 10)),
        (GATES, 100, 8, False, ("gates", 10)),
        (STATES, 8, 8, False, ("states", None)),
        (gj.CustomVJP(block_size=7), 400, 512, False, ("states", 7)),
    ],
)
def test_half_precision_has_blocks_of_root_t_steps_where_its_loops_are_slow(request_, steps, units, last_only, expected):
    slow = Device(slow_half_precision_loops=True)
    assert decisions(request_, steps, 64, units, device=slow, itemsize=2, last_only=last_only) == expected
    for device, itemsize in ((Device(), 2), (slow, 4)):
        as_usual = decisions(request_, steps, 64, units, last_only=last_only)
        assert decisions(request_, steps, 64, units, device=device, itemsize=itemsize, last_only=last_only) == as_usual


def test_a_cell_without_a_derivation_runs_step_by_step_unless_sums_may_cross_devices():
    def plan(steps, device=None, request=AUTO, **options):
        return make_plan(Shapes(steps, 64, 256), device or Device(), request, derived=False, **options)

    joined = {"join_in_loop": True}
    assert plan(2_000) == plan(2_000, request=GATES) == Plan(step_by_step=True, **joined)
    assert plan(2_000, request=gj.CustomVJP(block_size=7)) == Plan(block_size=7, step_by_step=True, **joined)
    assert plan(2_000, last_only=True) == Plan("block_starts", 10, step_by_step=True, **joined)
    assert plan(2_000, Device(sums_over_devices=True)) == Plan(block_size=10, **joined)


@pytest.mark.parametrize(
    ("platform", "steps", "sequences", "units", "expected"),
    [
        ("cpu", 100, 1, 64, (True, True)),
        ("cpu", 200, 1, 64, (True, False)),
        ("cpu", 10, 1, 256, (True, True)),
        ("cpu", 10, 1, 257, (False, False)),
        ("gpu", 10, 1, 512, (True, True)),
        ("gpu", 1_000, 10, 512, (True, False)),
    ],
)
def test_products_are_joined_for_few_units_and_on_accelerators(platform, steps, sequences, units, expected):
    plan = make_plan(Shapes(steps, sequences, units), Device(platform), AUTO)
    assert (plan.join_in_loop, plan.join_outside) == expected


def test_symbolic_sizes_make_one_block():
    T, B = export.symbolic_shape("T, B")
    assert make_plan(Shapes(T, B, 64), Device(), AUTO) == Plan("states", None, True)
    assert make_plan(Shapes(T, 3, 512), Device(), GATES) == Plan("gates", None, False)


def test_the_batch_is_spread_over_all_devices_unless_it_is_known_to_be_on_one(monkeypatch):
    mesh = jax.make_mesh((1,), ("batch",), devices=jax.devices()[:1])
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    xs, found = jnp.ones((2, 3, 1)), []
    of = lambda xs: (found.append(probe(xs, (xs,))), xs)[1]
    traced = lambda: jax.jit(lambda xs: of(xs))(xs)  # traced again at each call
    of(xs)
    traced()
    jax.jit(jax.shard_map(of, mesh=mesh, in_specs=P(), out_specs=P()))(xs)
    with jax.set_mesh(mesh):
        traced()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    traced()
    assert [device.batch_shards for device in found] == [1, 4, 1, 1, 1]
    assert [device.sums_over_devices for device in found] == [False, True, False, False, True]


@pytest.mark.parametrize(
    ("version", "backend", "slow"),
    [((0, 10, 2), "cpu", True), ((0, 11, 9), "cpu", True), ((0, 12, 0), "cpu", False), ((0, 10, 2), "gpu", False)],
)
def test_half_precision_loops_are_slow_on_a_cpu_before_jax_0_12(version, backend, slow, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert probe(jnp.ones((2, 3, 1)), ()).slow_half_precision_loops == slow


def test_axes_of_vmap_are_counted_as_far_as_tracers_show_them():
    """The sizes of all mapped axes are multiplied, whichever array they map. `jit` hides them."""
    found = []
    of = lambda x, y: (found.append(vmapped({"x": x, "y": [y, None]})), (x * jax.nn.relu(y)).sum())[1]
    xs, ys = jnp.ones((3, 4)), jnp.ones(5)
    of(xs, 1.0)
    jax.jit(of)(xs, 1.0)
    jax.vmap(of, in_axes=(1, None))(xs, 1.0)
    jax.vmap(of, in_axes=(None, 0))(xs, ys)
    jax.jit(jax.vmap(jax.vmap(of, in_axes=(0, None)), in_axes=(0, None)))(xs, 1.0)
    jax.vmap(jax.vmap(of, in_axes=(0, None)), in_axes=(None, 0))(xs, ys)
    jax.vmap(lambda y: jax.vmap(of, in_axes=(0, None))(xs, jax.nn.relu(y)))(ys)
    jax.eval_shape(jax.vmap(jax.grad(of), in_axes=(0, None)), xs, 1.0)
    jax.eval_shape(jax.vmap(jax.hessian(of), in_axes=(0, None)), xs, 1.0)
    jax.eval_shape(jax.vmap(jax.grad(lambda y: jax.vmap(of, in_axes=(0, None))(xs, y).sum())), ys)
    jax.vmap(jax.jit(of), in_axes=(0, None))(xs, 1.0)
    jax.vmap(of)(xs[:, 0], xs[:, 1])  # both arrays on the same axis
    assert found == [1, 1, 4, 5, 12, 15, 15, 3, 3, 15, 1, 3]


def test_unroll_runs_the_plan_of_its_shapes(monkeypatch):
    """Under vmap, the plan is for all mapped calls together. It gets the derivative's options."""
    made = []
    monkeypatch.setattr("gru_jax._engine.run_cell.make_plan", lambda *a, **k: made.append((a, k)) or make_plan(*a, **k))
    cell = gj.gru()
    params = cell.init(jax.random.key(0), 2, 61)
    xs = jnp.zeros((16, 11, 3, 2))
    jax.eval_shape(jax.vmap(lambda xs: gj.unroll(cell, params, xs, outputs="last", derivative=STATES)[0]), xs)
    ((shapes, device, request_), options) = made[-1]
    assert (shapes, device.vmapped, request_, options) == (
        Shapes(11, 3, 61, 4),
        16,
        STATES,
        {"last_only": True, "derived": True},
    )


def test_no_other_module_holds_a_threshold_or_asks_a_device():
    """Only the plan asks for the backend, the devices, their number or the number of cores."""
    from pathlib import Path

    package = Path(plan_module.__file__).parents[1]
    asks = ("default_backend", "device_count", "local_devices", "cpu_count", "sched_getaffinity", "__version_info__")
    core = [
        *package.glob("*.py"),
        *(package / "_engine").glob("*.py"),
        *(package / "cells").glob("*.py"),
        *(package / "layers").glob("*.py"),
    ]
    found = {path.name for path in core for name in asks if name in path.read_text("utf-8")}
    assert found == {"plan.py", "plan_kernel.py"}
