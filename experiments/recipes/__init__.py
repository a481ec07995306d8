"""Short examples to copy: `gru_jax` inside other libraries, and small complete programs.

| file              | shows                                                         | needs       |
|-------------------|---------------------------------------------------------------|-------------|
| equinox_module    | a recurrent layer as an Equinox module                        | Equinox     |
| flax_nnx          | a recurrent layer as a Flax NNX module                        | Flax        |
| flax_linen        | a recurrent layer as a Flax linen module                      | Flax        |
| haiku_transform   | a recurrent layer as a Haiku module                           | Haiku       |
| scanned_rnn       | a replacement for the `ScannedRNN` of PureJaxRL               | Flax        |
| torch_finetune    | a GRU trained in PyTorch and fine-tuned here                  | PyTorch     |
| keras_layer       | a Keras layer trained here, with its weights put back         | Keras       |
| serve_onnx        | a network trained here and served by onnxruntime              | onnxruntime |
| dreamer_gru       | a custom cell: the block GRU of DreamerV3                     |             |
| new_cells         | custom cells: minGRU, sLSTM, LRU, the delta rule              |             |
| gated_cells       | custom cells: layer norm, LSTM with images                    |             |
| derived_cells     | with derivations: LSTM with coupled gates, MGU, IndRNN        |             |
| cells_for_science | custom cells: ConvGRU, GRU-D, a noisy network with Dale's law |             |
| padded_sentences  | a bidirectional classifier for padded sentences               |             |
| attention         | a decoder that attends to an encoder, and writes by beams     |             |
| recurrent_policy  | a recurrent policy with episode resets, stepped and unrolled  |             |
| own_training_loop | a loop with plain optax, checkpoints and exact resumes         |             |
| logging_callbacks | callbacks of `fit` for TensorBoard and Weights & Biases       |             |

`pip install -e ".[peers]" --extra-index-url https://download.pytorch.org/whl/cpu` installs all of
these libraries, with PyTorch for CPUs. Each recipe is tested in tests/experiments, in a file
whose name ends in recipes.py or cells.py, or in test_attention.py.
"""
