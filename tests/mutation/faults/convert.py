"""Faults in the conversion tables, and in reading and writing files."""

# fmt: off
FAULTS = {
    "convert/pytorch.py": [
        ("the gates of PyTorch's LSTM are in the order i, g, f, o",
         '"weight_ih": "W_i W_f W_g W_o"', '"weight_ih": "W_i W_g W_f W_o"', "convert/test_library_equations"),
        ("z of PyTorch's GRU is not negated in the recurrent weights",
         '"weight_hh": "U_r -U_z U_h"', '"weight_hh": "U_r U_z U_h"', "convert/test_tables"),
    ],
    "convert/keras.py": [
        ("the gates of Keras' GRU are in the order r, z, h",
         '_GRU = {"kernel": "-W_z W_r W_h"', '_GRU = {"kernel": "W_r -W_z W_h"', "convert/test_library_equations"),
        ("the rows of Keras' two biases are swapped",
         '"bias": "-b_z b_r b_h / -b_z b_r c_h"', '"bias": "-b_z b_r c_h / -b_z b_r b_h"',
         "convert/test_library_equations"),
    ],
    "convert/haiku.py": [
        ("the offset of Haiku's forget bias has the wrong sign",
         "b_f-1 b_o", "b_f+1 b_o", "convert/test_tables"),
    ],
    "convert/flax.py": [
        ("r and the candidate of linen's GRU are swapped in the recurrent weights",
         '"hr/kernel": "U_r", "hz/kernel": "-U_z", "hn/kernel": "U_h"',
         '"hr/kernel": "U_h", "hz/kernel": "-U_z", "hn/kernel": "U_r"', "convert/test_library_equations"),
    ],
    "convert/onnx.py": [
        ("the gates of ONNX' LSTM are in the order i, f, o, g",
         '_LSTM = {"W": "W_i W_o W_f W_g"', '_LSTM = {"W": "W_i W_f W_o W_g"', "convert/test_onnx cells/test_onnx_oracle"),
        ("a GRU with the reset before the matmul is saved as one with it after",
         '{"linear_before_reset": 0}', '{"linear_before_reset": 1}', "convert/test_onnx"),
        ("the initial states of an ONNX LSTM are swapped",
         '"initial_h", "initial_c", "P"', '"initial_c", "initial_h", "P"', "convert/test_onnx"),
    ],
    "convert/packing.py": [
        ("negated weights are not negated back",
         "value = block if entry.sign > 0 else -block", "value = block", "convert/test_tables"),
        ("a bias that is stored twice is stored whole both times",
         "_zeros_to_add(leaf, entry) if entry.field in written else _stored(leaf, entry)", "_stored(leaf, entry)",
         "convert/test_tables"),
        ("the second of two biases replaces the first",
         "fields[entry.field] + value if entry.field in fields else value", "value", "convert/test_tables"),
    ],
    "convert/arrays.py": [
        ("tensors of two dtypes are not refused",
         "if len(first_of) > 1:", "if len(first_of) > 2:", "convert/test_tables"),
        ("converted arrays share memory with the params",
         'np.array(t, order="C")', 'np.asarray(t, order="C")', "convert/test_tables"),
    ],
    "convert/composition.py": [
        ("the directions are swapped on the way out",
         "split[Position(i, 0)], split[Position(i, 1)] = own.forward",
         "split[Position(i, 1)], split[Position(i, 0)] = own.forward",
         "convert/test_tables"),
        ("biases in some layers only are not refused",
         "if any(has_bias) and not all(has_bias):", "if not any(has_bias) and all(has_bias):", "convert/test_tables"),
        ("a residual block is converted without its sum",
         "if isinstance(cell, Stack) and cell.residual:", "if isinstance(cell, Stack) and cell.residual is True:",
         "convert/test_tables"),
    ],
    "convert/names.py": [
        ("one of two biases may be missing",
         "has_optional = any(name in found for name in optional)", "has_optional = all(name in found for name in optional)",
         "convert/test_tables"),
    ],
    "_files.py": [
        ("files can be read by their owner only",
         "os.chmod(temporary, 0o666 & ~_umask())", "os.chmod(temporary, 0o600)", "convert/test_safetensors"),
        ("a transposed view is written in the order of its memory",
         'np.asarray(array, order="C")', "np.asarray(array)", "convert/test_safetensors"),
    ],
    "convert/onnx_load.py": [
        ("a batch-major operator is loaded as a time-major one",
         "time_major=not batch_first,", "time_major=True,", "convert/test_onnx"),
        ("a batch-major initial state is read as a direction-major one",
         "state.swapaxes(0, 1) if batch_first and state.ndim == 3 else state", "state", "convert/test_onnx"),
        ("a negative index chooses an operator from the end",
         "operators[node : node + 1] if node >= 0 else []", "[operators[node]]", "convert/test_onnx"),
    ],
    "convert/onnx_save.py": [
        ("a reversed operator is saved as a forward one",
         'direction="bidirectional" if directions == 2 else self.direction',
         'direction="bidirectional" if directions == 2 else "forward"', "convert/test_onnx"),
        ("a sequence of no steps does not return its initial state",
         '["is_empty_by_state", initial, f"{final}_raw"]', '["is_empty_by_state", f"{final}_raw", initial]',
         "convert/test_onnx"),
    ],
    "convert/onnx_attributes.py": [
        ("linear_before_reset is read the wrong way round",
         'gru(reset_after=bool(attributes.get("linear_before_reset", 0)))',
         'gru(reset_after=not attributes.get("linear_before_reset", 0))', "convert/test_onnx"),
    ],
}
