"""Converts parameters to and from other libraries, and reads and writes model files.

    from_pytorch(cell, state_dict)         to_pytorch(cell, params)
    from_keras(cell, weights)              to_keras(cell, params)
    from_flax_linen(cell, tree)            to_flax_linen(cell, params)
    from_flax_nnx(cell, state)             to_flax_nnx(cell, params)
    from_haiku(cell, tree)                 to_haiku(cell, params)
    from_equinox(cell, module)             to_equinox(cell, params)
    from_onnx(cell, tensors)               to_onnx(cell, params)
    load_keras(path)
    load_onnx(path)                        save_onnx(path, cell, params)
    load_safetensors(path)                 save_safetensors(path, tensors)

The conversions need none of these libraries. Each library has a module here with a table of its
parameter layout; `table` explains how to read one. Converting parameters to a library and back
returns the same bits, except that the forget bias of Haiku's LSTM may change by one rounding. If
the library cannot represent a cell or one of its parameters, the conversion raises and says why; it
never approximates.
"""

from gru_jax.convert.equinox import from_equinox as from_equinox
from gru_jax.convert.equinox import to_equinox as to_equinox
from gru_jax.convert.flax import from_flax_linen as from_flax_linen
from gru_jax.convert.flax import from_flax_nnx as from_flax_nnx
from gru_jax.convert.flax import to_flax_linen as to_flax_linen
from gru_jax.convert.flax import to_flax_nnx as to_flax_nnx
from gru_jax.convert.haiku import from_haiku as from_haiku
from gru_jax.convert.haiku import to_haiku as to_haiku
from gru_jax.convert.keras import from_keras as from_keras
from gru_jax.convert.keras import to_keras as to_keras
from gru_jax.convert.keras_files import load_keras as load_keras
from gru_jax.convert.onnx import from_onnx as from_onnx
from gru_jax.convert.onnx import to_onnx as to_onnx
from gru_jax.convert.onnx_load import load_onnx as load_onnx
from gru_jax.convert.onnx_save import save_onnx as save_onnx
from gru_jax.convert.pytorch import from_pytorch as from_pytorch
from gru_jax.convert.pytorch import to_pytorch as to_pytorch
from gru_jax.convert.safetensors import load_safetensors as load_safetensors
from gru_jax.convert.safetensors import save_safetensors as save_safetensors
