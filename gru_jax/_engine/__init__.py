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
    inputs         which axes of the inputs are time, batch and features
    noise          the keys that noise is drawn from
    validate       checks of the arguments; validate_cell of the cell and its params
    arguments      checks of plain values, which the others share
    structures     pytrees in messages, and params rebuilt from dicts
    functions      functions that compare by value

A call goes one way: validate → layer → run_cell, which makes the plan → recursion or custom_jvp →
blocks.
"""
