"""A layer without state: a function of each step's input alone, for stacks of blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._engine.arguments import is_array
from gru_jax._engine.functions import make_comparable
from gru_jax._engine.inputs import checked_feature_axes, example_input, leading_shape
from gru_jax._engine.layer import CallOptions, Layer, LayerOutput, LayerRequest, Sequence
from gru_jax._engine.step_flags import zero_masked
from gru_jax._engine.validate_cell import float_dtype
from gru_jax._engine.weights import lower_matrices


@jax.tree_util.register_static
@dataclass(frozen=True)
class FeedForward(Layer):
    """A layer without state. `gj.feedforward` makes and documents it."""

    init_params: Callable[..., Any] | None
    apply: Callable[[Any, Any], Any]
    num_feature_axes: Any = 1
    name: str = "feedforward"

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_feature_axes", checked_feature_axes(self.num_feature_axes))
        make_comparable(self)

    @property
    def needs_key(self) -> bool:
        """False: the layer draws no noise."""
        return False

    def init(self, key: Array, input_size: int, hidden_size: int, **options: Any) -> Any:
        """Draws the parameters: what the layer's own `init` returns, or `()` if it has none."""
        return () if self.init_params is None else self.init_params(key, input_size, hidden_size, **options)

    def _validated_params(self, params: Any, path: str = "params") -> tuple[Any, int | None]:
        """Returns the params. They do not tell the input size."""
        return params, None

    def _zeros(self, params: Any) -> tuple[()]:
        """Returns the state, which is empty."""
        return ()

    def _output_size(self, params: Any, input_size: int | None) -> int | None:
        """Returns the size of the last axis of the outputs, or None if the input size is unknown."""
        if input_size is None or not isinstance(self.num_feature_axes, int):
            return None
        leaves, structure = jax.tree.flatten(params)
        return _output_size(self, structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves), input_size)

    def deterministic(self) -> "FeedForward":
        """Returns the layer itself."""
        return self

    def _run(self, options: CallOptions, request: LayerRequest, params: Any, sequence: Sequence) -> LayerOutput:
        """Applies the function to all steps at once. Masked steps have the output 0."""
        ys = None
        if request.outputs:
            xs = zero_masked(sequence.flags, sequence.xs)
            ys = zero_masked(sequence.flags, self._applied(params, xs, options.compute_dtype))
        return LayerOutput((), ys, () if request.states else None)

    def _step(self, params: Any, h: Any, x: Any, keys: Any = None, compute_dtype: Any = None) -> tuple[Any, Any]:
        """Applies the function to one step."""
        return (), self._applied(params, x, compute_dtype)

    def _applied(self, params: Any, xs: Any, compute_dtype: Any) -> Any:
        """The outputs, with time and batch checked."""
        ys, leading = self.apply(lower_matrices(params, compute_dtype), xs), leading_shape(self, xs)
        for y in jax.tree.leaves(ys):
            if jnp.shape(y)[: len(leading)] != leading:
                raise ValueError(
                    f"apply: got outputs of shape {jnp.shape(y)} from {self.name}, expected {leading} and then features: apply "
                    "acts on the feature axes only, whatever the axes before them."
                )
        return ys


@lru_cache(maxsize=1024)
def _output_size(layer: FeedForward, structure: Any, forms: tuple[Any, ...], input_size: int) -> int | None:
    params = structure.unflatten([jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in forms])
    x = example_input(layer.num_feature_axes, input_size, float_dtype(params))
    try:
        y = jax.eval_shape(layer.apply, params, x)
        return y.shape[-1] if is_array(y) else None
    except Exception:  # the run raises it, or the function takes no single pixel
        return None


def feedforward(
    init: Callable[..., Any] | None,
    apply: Callable[[Any, Any], Any],
    *,
    num_feature_axes: Any = 1,
    name: str = "feedforward",
) -> FeedForward:
    """Makes a layer without state, such as a normalisation, a dense layer or an activation.

    It stands in a `gj.stack` between cells, so that a block of a modern recurrent network is a
    stack:

        >>> import jax, jax.numpy as jnp, gru_jax as gj
        >>> def normalize(scale, x):
        ...     return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale
        >>> layer_norm = gj.feedforward(lambda key, D, H: jnp.ones(D), normalize)
        >>> dense = gj.feedforward(lambda key, D, H: jax.random.normal(key, (D, H)) / D**0.5, lambda W, x: x @ W)
        >>> gelu = gj.feedforward(None, lambda params, x: jax.nn.gelu(x))
        >>> block = gj.stack([layer_norm, gj.gru(), dense, gelu], residual="block")
        >>> network = gj.stack([dense, block, block])
        >>> params = network.init(jax.random.key(0), input_size=3, hidden_size=4)
        >>> h_last, ys = gj.unroll(network, params, jnp.ones((5, 2, 3)))
        >>> ys.shape
        (5, 2, 4)

    Args:
        init: `init(key, input_size, hidden_size, **options) -> params`. Draws the parameters, any
            pytree. It gets the options that `init` of the stack is given. None for a layer without
            parameters, whose params are `()`.
        apply: `apply(params, x) -> y`. Acts on the last axes of `x` alone, whatever the axes before
            them: `unroll` calls it for all steps at once, `step` for one.
        num_feature_axes: How many trailing axes of the input are features, as in `gj.Cell`.
            Defaults to 1.
        name: The name in error messages. Defaults to `"feedforward"`.

    Returns:
        A `FeedForward`, whose state is `()`. On masked steps its inputs and its outputs are 0.

    Raises:
        TypeError: If `apply` is not a function, or `init` neither a function nor None.
        ValueError: In `unroll`, if `apply` changes the axes of time and batch.

    Its derivatives are those of JAX in every mode. Make a layer with lambdas once, as a cell.
    """
    if not callable(apply):
        raise TypeError(f"apply: got {apply!r}, expected a function apply(params, x).")
    if init is not None and not callable(init):
        raise TypeError(f"init: got {init!r}, expected a function init(key, input_size, hidden_size), or None.")
    return FeedForward(init, apply, num_feature_axes, name)
