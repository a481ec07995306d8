"""The models, data and derivations of the tutorials that `count_ones` and `gru_by_hand` reproduce."""
