"""`gj.unroll` in other people's code: short files to copy from, each tested (tests/experiments/test_recipes.py).

`flax_linen`, `flax_nnx`, `equinox_module`, `haiku_transform`: a module of each library; they need that library, nothing else here does.
All of them: `pip install -e ".[peers]" --extra-index-url https://download.pytorch.org/whl/cpu`, PyTorch without CUDA.
`scanned_rnn`: a drop-in for the `ScannedRNN` that recurrent reinforcement learning copies around; it loads its weights.
`torch_finetune`, `serve_onnx`, `keras_layer`: weights from PyTorch, to onnxruntime, in and out of Keras.
`dreamer_gru`: a cell of one's own, the block GRU of DreamerV3. `padded_sentences`, `recurrent_policy`: whole examples.
"""
