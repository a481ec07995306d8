"""Back-propagation through time, written once for every cell. Not public: import from `gru_jax`.

Read in this order:

    layer          what everything that `unroll` runs has in common; the types of a call
    run_cell       one cell over a validated sequence
    plan           how it is carried out: every threshold, every question asked of a device
    recursion      the scan over time and its transpose: the one custom VJP
    step_flags     what lengths, masks and resets do to a step
    blocks         a scan over blocks of time
    local_vjp      the backward functions of a cell without a derivation
    custom_jvp     forward mode from the same derivation
    weights        weights transposed and lowered, once per call
    products       whether products of one operand are joined
    validate       checks of the arguments; arguments and structures help it
    functions      functions that compare by value

Data flows one way: validate → plan → layers → derivative → loop.
"""
