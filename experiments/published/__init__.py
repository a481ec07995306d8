"""Published derivations of the GRU's backward pass, and an audit that checks each equation."""
