"""Published derivations of the GRU's backward pass as tables of equations, and what judges them."""
