"""Tests the recipes: modules compute what `gj.unroll` does, and programs reach their results.

The extra `peers` installs the libraries. The tests of a missing library are skipped, unless
GRU_JAX_PEERS=1 is set, as in CI.
"""

import importlib
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import B, D, H, T, assert_close, compiled, normal, on_host, scan_of_step

LENGTHS = np.array([T, 3, 0])
RESETS = np.random.default_rng(3).random((T, B)) < 0.3
KEY = jax.random.key(0)
XS = normal(1, T, B, D, dtype=jnp.float32)


def recipe(name, library):
    """Imports a recipe. Skips the test if its library is missing, unless GRU_JAX_PEERS is set."""
    if os.environ.get("GRU_JAX_PEERS", "0") == "0":
        pytest.importorskip(library)
    return importlib.import_module(f"experiments.recipes.{name}")


def loss(outputs):
    return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(outputs))


def expected(cell, params):
    """Computes the value and gradient of the loss by `gj.unroll` alone."""
    return jax.value_and_grad(lambda params: loss(gj.unroll(cell, params, XS, lengths=LENGTHS)))(params)


every_cell = pytest.mark.parametrize("cell", [gj.gru(), gj.lstm(), gj.elman()], ids=lambda cell: cell.name)


@pytest.mark.peers
@every_cell
def test_a_flax_linen_module_computes_the_same_value_and_gradient(cell):
    module = recipe("flax_linen", "flax").Recurrent(H, cell)
    variables = module.init(KEY, XS)
    of = lambda variables: loss(module.apply(variables, XS, lengths=LENGTHS))
    value, grads = jax.jit(jax.value_and_grad(of))(variables)
    assert_close((value, grads["params"]["cell"]), expected(cell, variables["params"]["cell"]))


@pytest.mark.peers
@every_cell
def test_a_flax_nnx_module_computes_the_same_value_and_gradient(cell):
    recurrent = recipe("flax_nnx", "flax").Recurrent
    from flax import nnx

    module = recurrent(D, H, rngs=nnx.Rngs(0), cell=cell)
    value, grads = nnx.jit(nnx.value_and_grad(lambda module: loss(module(XS, lengths=LENGTHS))))(module)
    value_of = lambda param: None if param is None else param[...]
    params = type(module.params)(*map(value_of, module.params))
    by_field = type(params)(
        *(value_of(grads["params"].get(field)) for field in params._fields)
    )  # the State of NNX is a mapping
    assert_close((value, by_field), expected(cell, params))


@pytest.mark.peers
@every_cell
def test_an_equinox_module_computes_the_same_value_and_gradient(cell):
    recurrent = recipe("equinox_module", "equinox").Recurrent
    import equinox as eqx

    module = recurrent(D, H, key=KEY, cell=cell)
    value, grads = eqx.filter_jit(eqx.filter_value_and_grad(lambda module: loss(module(XS, lengths=LENGTHS))))(module)
    assert_close((value, grads.params), expected(cell, module.params))


@pytest.mark.peers
@every_cell
def test_an_equinox_module_has_no_leaves_but_its_parameters(cell):
    module = recipe("equinox_module", "equinox").Recurrent(D, H, key=KEY, cell=cell)
    assert_close(jax.tree.leaves(module), jax.tree.leaves(module.params), tol=0)
    assert_close(jax.jit(lambda module: module(XS))(module), gj.unroll(cell, module.params, XS))


@pytest.mark.peers
@every_cell
def test_a_haiku_module_computes_the_same_value_and_gradient(cell):
    recurrent = recipe("haiku_transform", "haiku").Recurrent
    import haiku as hk

    forward = hk.without_apply_rng(hk.transform(lambda xs: loss(recurrent(H, cell, name="rnn")(xs, lengths=LENGTHS))))
    tree = forward.init(KEY, XS)
    value, grads = jax.jit(jax.value_and_grad(forward.apply))(tree, XS)
    shapes = jax.eval_shape(lambda: cell.init(KEY, D, H))
    params = lambda tree: type(shapes)(**{field: tree["rnn"].get(field) for field in shapes._fields})
    assert_close((value, params(grads)), expected(cell, params(tree)))
    assert len(np.unique(tree["rnn"][next(iter(tree["rnn"]))])) > 1


@pytest.mark.peers
def test_the_replacement_of_scanned_rnn_loads_its_weights_and_gives_its_results_and_gradients():
    ours = recipe("scanned_rnn", "flax").ScannedRNN()
    import flax.linen as nn

    class Original(nn.Module):
        """The module of PureJaxRL (`ppo_rnn.py`)."""

        @partial(nn.scan, variable_broadcast="params", in_axes=0, out_axes=0, split_rngs={"params": False})
        @nn.compact
        def __call__(self, carry, x):
            ins, resets = x
            carry = jnp.where(resets[:, None], jnp.zeros_like(carry), carry)
            return nn.GRUCell(features=ins.shape[1])(carry, ins)

    ins = jax.random.normal(KEY, (T, B, H), jnp.float32)
    resets = jax.random.bernoulli(jax.random.key(2), 0.3, (T, B))
    carry = jax.random.normal(jax.random.key(3), (B, H), jnp.float32)
    original = Original()
    variables = original.init(KEY, carry, (ins, resets))
    variables = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(4), p.shape, p.dtype), variables)
    assert jax.tree.structure(ours.init(KEY, carry, (ins, resets))) == jax.tree.structure(variables)

    def run(module, variables, ins, carry):
        return module.apply(variables, carry, (ins, resets))

    assert_close(run(ours, variables, ins, carry), run(original, variables, ins, carry))
    grads, original_grads = (
        jax.jit(jax.grad(lambda *args: loss(run(module, *args)), (0, 1, 2)))(variables, ins, carry)
        for module in (ours, original)
    )
    assert_close(grads, original_grads)
    assert ours.initialize_carry(B, H).shape == (B, H)


@pytest.mark.derivative
@pytest.mark.parametrize("reverse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_gradients_of_the_dreamer_cell_match_autodiff_with_lengths_and_resets(reverse):
    from experiments.recipes.dreamer_gru import dreamer_gru

    cell, dtype = dreamer_gru(blocks=3), jnp.result_type(float)
    params = compiled(lambda key: cell.init(key, D, 6, dtype), KEY)
    params = params._replace(offset=normal(0, *params.offset.shape))
    options = {"lengths": LENGTHS, "resets": RESETS, "reverse": reverse}
    losses = [lambda *args, run=run: loss(run(cell, *args, **options)) for run in (gj.unroll, scan_of_step)]
    run = lambda *args: [jax.value_and_grad(of, (0, 1, 2))(*args) for of in losses]
    assert_close(*compiled(run, params, normal(1, T, B, D), normal(2, B, 6)))


def test_the_dreamer_cell_computes_the_published_formulas():
    """Compares one step with the formulas of `nets.py` in NumPy, for a single block."""
    from experiments.recipes.dreamer_gru import dreamer_gru

    cell = dreamer_gru(blocks=1)
    params = compiled(lambda key: cell.init(key, D, H), KEY)
    params = params._replace(offset=normal(0, *params.offset.shape, dtype=jnp.float32))
    x, h = np.asarray(XS[0, 0], np.float64), np.linspace(-1, 1, H)
    a = x @ np.asarray(params.W, np.float64) + h @ np.asarray(params.U[0], np.float64)
    a = a / np.sqrt((a**2).mean() + 1e-4) * params.scale[0] + params.offset[0]
    reset, cand, update = np.split(a, 3)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    update = sigmoid(update - 1)
    expected = update * np.tanh(sigmoid(reset) * cand) + (1 - update) * h
    measured, _ = compiled(cell.step, params, h.astype(params.U.dtype), x)
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


@pytest.mark.slow
def test_the_classifier_of_padded_sentences_ignores_padding():
    from experiments.recipes import padded_sentences as recipe

    batch = recipe.draw_sentences(np.random.default_rng(0), 5)
    xs, lengths = recipe.pad(batch)
    assert lengths.tolist() == [len(words) for words in batch]
    xs, lengths = on_host((xs, lengths))
    longer = np.pad(xs, ((0, 4), (0, 0), (0, 0)), constant_values=np.nan)

    def results(key_reader, key_head):
        head = gj.heads.init_dense(key_head, 2 * H, 1)
        run = partial(recipe.logits, {"reader": recipe.READER.init(key_reader, len(recipe.WORDS), H), "head": head})
        alone = {b: run(xs[: lengths[b], b : b + 1], lengths[b : b + 1]) for b in range(0, 5, 2)}
        return run(xs, lengths), run(longer, lengths), alone

    together, of_longer, alone = compiled(results, *jax.random.split(KEY))
    assert_close(of_longer, together)
    for b, logits in alone.items():
        assert_close(logits, together[b : b + 1])


@pytest.mark.slow
def test_the_classifier_of_padded_sentences_learns():
    from experiments.recipes import padded_sentences as recipe

    assert recipe.train(steps=300)[1] > 0.9


@pytest.mark.slow
def test_actor_and_learner_agree_unless_the_resets_are_shifted():
    from experiments.recipes import recurrent_policy as recipe

    params = recipe.init(KEY)
    h = recipe.CELL.initial_state(params["cell"], B)
    done = jnp.ones(B, bool)
    for seed in range(2):  # the second rollout continues with the state and `done` of the first
        seen = recipe.rollout(jax.random.key(seed), params, h, done, steps=50)
        h_last, logits = recipe.learn(params, h, seen["observation"], seen["reset"])
        assert_close((h_last, logits), (seen["h_last"], seen["logits"]), tol=1e-5)
        assert 0.15 < float(seen["reset"].mean()) < 0.5
        shifted = jnp.concatenate([seen["reset"][1:], seen["done_last"][None]])
        assert float(jnp.abs(recipe.learn(params, h, seen["observation"], shifted)[1] - logits).max()) > 0.01
        h, done = seen["h_last"], seen["done_last"]
    assert not done.all()


@pytest.mark.peers
def test_a_network_from_pytorch_predicts_the_same_and_can_be_fine_tuned():
    torch = pytest.importorskip("torch") if os.environ.get("GRU_JAX_PEERS", "0") == "0" else importlib.import_module("torch")
    recipe = importlib.import_module("experiments.recipes.torch_finetune")
    from experiments import digits

    state_dict = recipe.train_in_pytorch(epochs=8)
    params = recipe.convert(state_dict)
    train, test = digits.load()
    gru, head = torch.nn.GRU(8, digits.HIDDEN), torch.nn.Linear(digits.HIDDEN, digits.CLASSES)
    gru.load_state_dict({k.removeprefix("rnn."): v for k, v in state_dict.items() if k.startswith("rnn.")})
    head.load_state_dict({k.removeprefix("head."): v for k, v in state_dict.items() if k.startswith("head.")})
    with torch.no_grad():
        theirs = head(gru(torch.tensor(test.xs).transpose(0, 1))[0]).transpose(0, 1).numpy()
    assert_close(np.asarray(digits.logits(recipe.CELL, params, test.xs)), theirs)
    train, reversed_test = recipe.reverse_rows(train), recipe.reverse_rows(test)
    before = recipe.accuracy(params, reversed_test)
    assert recipe.accuracy(params, test) > 0.85
    assert before < 0.5
    assert recipe.accuracy(recipe.fine_tune(params, train), reversed_test) > 0.85


@pytest.mark.peers
def test_onnxruntime_serves_the_exported_network(tmp_path):
    recipe("serve_onnx", "onnxruntime")
    from experiments.recipes import padded_sentences, serve_onnx

    params, _ = padded_sentences.train(steps=5)
    serve_onnx.export(tmp_path / "reader.onnx", params)
    served = serve_onnx.load(tmp_path / "reader.onnx")
    for number in (1, 6):
        xs, lengths = padded_sentences.pad(padded_sentences.draw_sentences(np.random.default_rng(number), number))
        xs = xs.astype(jnp.float32)
        here = padded_sentences.logits(params, xs, lengths)
        np.testing.assert_allclose(served(np.asarray(xs), np.asarray(lengths)), here, atol=1e-5)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised by Keras itself under NumPy 2
@pytest.mark.parametrize(
    ("kind", "options"), [("GRU", {"reset_after": False}), ("GRU", {}), ("LSTM", {}), ("SimpleRNN", {"activation": "relu"})]
)
def test_a_keras_layer_trained_here_has_a_lower_error_in_keras(kind, options):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    train_layer = recipe("keras_layer", "keras").train_layer
    import keras

    keras.utils.set_random_seed(0)
    xs = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    ys = np.tanh(np.cumsum(xs[..., :1] * np.ones(H, np.float32), 1))
    layer = getattr(keras.layers, kind)(H, return_sequences=True, **options)
    layer.build((B, T, D))
    error = lambda: float(((np.asarray(layer(xs)) - ys) ** 2).sum(-1).mean())
    before = error()
    losses = train_layer(layer, xs, ys)
    np.testing.assert_allclose(losses[0], before, rtol=1e-4)
    assert error() < 0.5 * before


@pytest.mark.peers
def test_a_keras_layer_with_other_activations_raises():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    cell_for = recipe("keras_layer", "keras").cell_for
    import keras

    with pytest.raises(TypeError, match="got GRU with activation='relu' and recurrent_activation='sigmoid'"):
        cell_for(keras.layers.GRU(H, activation="relu"))
