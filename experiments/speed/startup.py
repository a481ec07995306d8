"""Measures the start-up time of a program.

`python -m experiments.speed.startup` prints the seconds as JSON.
"""

import json
import time


def startup_seconds() -> dict[str, float]:
    """Times importing jax, importing gru_jax after it, and compiling a first small gradient."""
    began = time.perf_counter()
    import jax
    import jax.numpy as jnp

    with_jax = time.perf_counter()
    import gru_jax as gj

    with_both = time.perf_counter()
    cell = gj.gru()
    params = cell.init(jax.random.key(0), 8, 16)
    loss = lambda params, xs: jnp.square(gj.unroll(cell, params, xs)[1]).mean()
    jax.block_until_ready(jax.jit(jax.grad(loss))(params, jnp.ones((50, 8, 8))))
    found = {"import jax": with_jax - began, "import gru_jax": with_both - with_jax}
    return found | {"first gradient": time.perf_counter() - with_both}


if __name__ == "__main__":
    print(json.dumps(startup_seconds()))
