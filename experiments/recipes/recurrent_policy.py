"""Shows a recurrent policy with episode resets: the actor steps it, the learner unrolls it.

`resets[t]` says that the observation at t is the first of its episode, so the state is reset BEFORE
the step at t. Gym, Gymnax and Brax return `done[t]` with the transition that ends at t. With
auto-reset, the next observation already belongs to the new episode:

    resets[0] = True, or the last `done` of the previous rollout if h0 is its last state
    resets[t] = done[t - 1]

A frequent bug is to use resets[t] = done[t]. The policy then forgets its state before it acts on
the last observation of an episode, and starts the next episode with the old state. The results look
plausible, but actor and learner no longer agree, as this program prints.
Run `python -m experiments.recipes.recurrent_policy`.
"""

from typing import Any

import jax
import jax.numpy as jnp

import gru_jax as gj

CELL = gj.gru()
CUES, MAX_STEPS = 2, 5  # an episode shows one of two cues at its first step, and has at most five steps


def init(key: jax.Array, hidden_size: int = 16) -> dict[str, Any]:
    """Draws the parameters of the policy."""
    key_cell, key_head = jax.random.split(key)
    return {"cell": CELL.init(key_cell, CUES + 1, hidden_size), "head": gj.heads.init_dense(key_head, hidden_size, CUES)}


def act(params: dict, h: jax.Array, observation: jax.Array, reset: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Runs the actor for one step. Returns the state and the logits of the actions."""
    h, y = gj.step(CELL, params["cell"], h, observation, reset=reset)
    return h, gj.heads.dense(params["head"], y)


def learn(params: dict, h0: jax.Array, observations: jax.Array, resets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Runs the learner on a whole rollout. Returns the final state and the logits of all steps."""
    h_last, ys = gj.unroll(CELL, params["cell"], observations, h0, resets=resets)
    return h_last, gj.heads.dense(params["head"], ys)


def rollout(key: jax.Array, params: dict, h: jax.Array, done: jax.Array, steps: int) -> dict[str, jax.Array]:
    """Acts in B environments with auto-reset.

    Args:
        key: A `jax.random` key.
        params: The parameters of the policy.
        h: The state before the first step.
        done: Whether the step before the first one ended an episode, of shape (B,).
        steps: The number of steps T.

    Returns:
        Arrays of shape (T, B, …) by name, and the state and `done` after the last step as "h_last"
        and "done_last".
    """

    def step(carry: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        h, done, cue, age = carry
        key_cue, key_action, key_end = jax.random.split(key, 3)
        cue = jnp.where(done, jax.random.randint(key_cue, cue.shape, 0, CUES), cue)
        age = jnp.where(done, 0, age + 1)
        shown = jax.nn.one_hot(jnp.where(age == 0, cue, -1), CUES)
        observation = jnp.concatenate([shown, jnp.ones_like(shown[..., :1])], -1)
        h, logits = act(params, h, observation, reset=done)
        action = jax.random.categorical(key_action, logits)
        ends = (age == MAX_STEPS - 1) | (jax.random.uniform(key_end, cue.shape) < 0.1)
        seen = {"observation": observation, "reset": done, "logits": logits, "action": action}
        return (h, ends, cue, age), seen

    batch = done.shape
    carry = (h, done, jnp.zeros(batch, int), jnp.zeros(batch, int))
    (h, done, _, _), seen = jax.lax.scan(step, carry, jax.random.split(key, steps))
    return seen | {"h_last": h, "done_last": done}


if __name__ == "__main__":
    params, B = init(jax.random.key(0)), 8
    h0 = CELL.initial_state(params["cell"], B)
    seen = rollout(jax.random.key(1), params, h0, jnp.ones(B, bool), steps=128)
    _, logits = learn(params, h0, seen["observation"], seen["reset"])
    shifted = jnp.concatenate([seen["reset"][1:], seen["done_last"][None]])
    _, wrong = learn(params, h0, seen["observation"], shifted)
    print(
        f"{int(seen['reset'].sum())} episodes; actor and learner differ by {float(jnp.abs(logits - seen['logits']).max()):.1e}"
    )
    print(f"with resets[t] = done[t] in the learner, they differ by {float(jnp.abs(wrong - seen['logits']).max()):.1e}")
