"""Which equations of the published GRU derivations are right, and what do the wrong ones cost?

Sources: Fichou's "GRU units", the GRU of the R package `rnn`, and Seo's script x_gru.py. Their
equations are in `experiments/published`.

Method: every printed equation is compared with the true cotangent from `jax.grad`, first by itself,
with true values on its right side, and then in its own chain. Each wrong equation is corrected, and
the corrected chain must reproduce `jax.grad` up to rounding over one step. Fichou's chain must also
do so over two layers and several steps, where δ24 enters the layer below and δ23 the step before.
His letters W and U are ambiguous, so both readings are judged.

The double sum of the general RNN formulas, ∂J/∂U = Σ_t Σ_{k≤t} ∂J_t/∂h_t J_tᵀ … J_{k+1}ᵀ ∂⁺h_k/∂U,
is evaluated literally, term by term. Finally, binary addition (the R package's own example, with
5,000 pairs, eight bits, ten units and a rate of 0.1) is trained with each gradient.

Expectation: the equations that earlier readers found wrong are wrong. Corrected chains agree with
`jax.grad` to 1e-15. Binary addition is learned with the right gradient, but not with the printed
ones.

Result: earlier readers missed two errors.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gru_jax as gj
from experiments.common import Options, Outcome, main
from experiments.published import audit, bptt, fichou, rnn_package, seo
from experiments.published.report import record, tables
from gru_jax.cells import ElmanParams, GRUParams

ROWS, UNITS, STEPS = 3, 4, 5  # batch, equal input and hidden size, and steps of the two layers


def random_step(seed: int, rows: int = ROWS, inputs: int = UNITS) -> tuple[audit.Values, dict[str, Any], Any]:
    """Draws the values of a step, the first deltas of the chains, and a read-out."""
    keys = iter(jax.random.split(jax.random.key(seed), 16))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    v = {name: normal(inputs if name[0] == "U" else UNITS, UNITS) for name in audit.WEIGHTS}
    v = audit.step_values(v | {"x": normal(rows, inputs), "h₋": normal(rows, UNITS)})
    return v, {"δ1": normal(rows, UNITS), "δ2": normal(rows, UNITS), "e": normal(rows, 2)}, normal(UNITS, 2)


def judge_fichou(seed: int) -> dict[str, list[audit.Verdict]]:
    """Judges Fichou's equations under both readings of W and U."""
    v, given, _ = random_step(seed)
    deltas = {name: given[name] for name in ("δ1", "δ2")}
    return {name: audit.judge(fichou.equations(r), deltas, v, given["δ1"] + given["δ2"]) for name, r in fichou.READINGS.items()}


def judge_package(seed: int) -> list[audit.Verdict]:
    """Judges the equations of the R package.

    The step is the last one, where δ_f would be 0. A random δ_f is given instead, so that its use
    is tested too.
    """
    v, given, V = random_step(seed)
    h = audit.forward(v, dict.fromkeys(audit.PROBES, 0.0))
    deltas = {"e": given["e"], "δ_f": given["δ2"], "V̄": h.T @ given["e"]}
    return audit.judge(rnn_package.equations(), deltas, v | {"h": h, "V": V}, given["e"] @ V.T + given["δ2"])


def lines_without_shapes(seed: int) -> dict[str, list[str]]:
    """Returns Fichou's equations whose shapes do not match if input and hidden size differ."""
    v, given, _ = random_step(seed, inputs=UNITS + 2)
    true = audit.true_cotangents(v, given["δ1"] + given["δ2"])
    found: dict[str, list[str]] = {}
    for name, reading in fichou.READINGS.items():
        equations = fichou.equations(reading)
        right = given | {equation.name: audit.meaning(true, equation) for equation in equations}
        found[name] = []
        for equation in equations:
            try:
                fits = jnp.shape(equation.evaluate(right, v)) == right[equation.name].shape
            except TypeError:
                fits = False
            if not fits:
                found[name].append(equation.name)
    return found


def judge_forward(seed: int) -> dict[str, Any]:
    """Compares Fichou's forward equations with this library's GRU.

    In his equation of g, W_g stands on the left. For a batch of rows the shapes do not match. For
    as many rows as units they match, and the result is wrong.
    """
    v, _, _ = random_step(seed, rows=UNITS)
    names = {"z": "z", "r": "r", "h": "g"}
    fields = {
        f"{ours}_{name}": v[f"{theirs}_{gate}"] for name, gate in names.items() for ours, theirs in (("W", "U"), ("U", "W"))
    }
    params = GRUParams(b_z=None, b_r=None, b_h=None, **fields)
    cell = gj.gru()
    gates = cell.gates(params, cell.project(params, v["x"]), v["h₋"])
    reset = v["h₋"] * v["r"]
    printed = {
        "r = sigmoid(h₋ * W_r + x * U_r)": (audit.sigmoid(v["h₋"] @ v["W_r"] + v["x"] @ v["U_r"]), gates.r),
        "z = sigmoid(h₋ * W_z + x * U_z)": (audit.sigmoid(v["h₋"] @ v["W_z"] + v["x"] @ v["U_z"]), gates.z),
        "g = tanh(W_g * (h₋ · r) + x * U_g)": (jnp.tanh(v["W_g"] @ reset + v["x"] @ v["U_g"]), gates.g),
        "h = h₋ · (1 − z) + z · g": (v["h₋"] * (1 - v["z"]) + v["z"] * gates.g, cell.update(gates, v["h₋"])),
    }
    errors = {line: audit.difference(*values) for line, values in printed.items()}
    batch, _, _ = random_step(seed)
    try:
        batch["W_g"] @ (batch["h₋"] * batch["r"])
        shapes = "match"
    except TypeError:
        shapes = "do not match"
    return {"errors": errors, "shapes of g for a batch of rows": shapes}


def judge_two_layers(seed: int) -> dict[str, float]:
    """Returns the error of Fichou's weight gradients over two layers and several steps."""
    keys = iter(jax.random.split(jax.random.key(seed), 16))
    sizes = {"lower": (2, 3), "upper": (3, UNITS)}
    lower, upper = (
        {name: jax.random.normal(next(keys), (D if name[0] == "U" else H, H)) for name in audit.WEIGHTS}
        for D, H in sizes.values()
    )
    xs, h_bars = jax.random.normal(next(keys), (STEPS, ROWS, 2)), jax.random.normal(next(keys), (STEPS, ROWS, UNITS))
    expected = bptt.two_layers_by_autodiff(lower, upper, xs, h_bars)
    worst = lambda bars: max(jax.tree.leaves(jax.tree.map(audit.difference, bars, expected)))
    return {
        "corrected": worst(bptt.two_layers(lower, upper, xs, h_bars, as_printed=False)),
        "as printed": worst(bptt.two_layers(lower, upper, xs, h_bars, as_printed=True)),
    }


def judge_seo() -> list[dict[str, Any]]:
    """Evaluates Seo's gradient without errors, with each error alone, and with all of them."""
    truth = seo.true_gradient()
    rows = [("none", "", "", frozenset()), ("all", "", "", frozenset(seo.ERRORS))]
    rows[1:1] = [(error, *what, frozenset([error])) for error, what in seo.ERRORS.items()]
    found = []
    for error, printed, correct, errors in rows:
        bars = seo.gradient(errors)
        found.append(
            {
                "error made": error,
                "printed": printed,
                "correct": correct,
                "wx_c, wrec_c": bars,
                "difference": audit.difference(bars, truth),
            }
        )
    return found


def double_sum(seed: int, steps: int = 3) -> dict[str, Any]:
    """Evaluates the general formulas literally, every term by products of Jacobians.

    The network is h = tanh(x W + h₋ U + b), ŷ = h V, with J = 1/T Σ ½ (ŷ − y)².
    """
    keys = jax.random.split(jax.random.key(seed), 5)
    D, H, O = 2, UNITS, 3
    cell = gj.elman()
    params: Any = cell.init(keys[0], D, H, dtype=jnp.float64, bias_init=jax.nn.initializers.normal(0.5))
    V, xs, ys = (jax.random.normal(key, shape) for key, shape in zip(keys[1:4], ((H, O), (steps, D), (steps, O)), strict=True))
    hs = np.asarray(gj.unroll(cell, params, xs)[1])
    befores = np.concatenate([np.zeros((1, H)), hs[:-1]])
    slopes = 1 - hs**2
    Js = [np.asarray(params.U) * slope for slope in slopes]  # ∂h_j/∂h_{j−1} = U diag(g₁′), row vectors
    e = (hs @ np.asarray(V) - np.asarray(ys)) / steps
    terms = {"U": np.zeros((steps, steps, H, H)), "W": np.zeros((steps, steps, D, H))}
    for t in range(steps):
        for k in range(t + 1):
            delta = e[t] @ np.asarray(V).T  # ∂J_t/∂h_t
            for j in range(t, k, -1):
                delta = delta @ Js[j].T  # J_tᵀ J_{t−1}ᵀ … J_{k+1}ᵀ
            a = delta * slopes[k]
            terms["U"][t, k], terms["W"][t, k] = np.outer(befores[k], a), np.outer(xs[k], a)

    loss_at = lambda V, t, h: 0.5 * jnp.sum((h @ V - ys[t]) ** 2) / steps
    whole = lambda params, V: sum(
        loss_at(V, t, h) for t, h in enumerate(gj.unroll(cell, params, xs, derivative=gj.Autodiff())[1])
    )
    params_bar, V_bar = jax.grad(whole, (0, 1))(params, V)
    split: ElmanParams = gj.flow.contributions(cell, params, xs, lambda t, h: loss_at(V, t, h))
    return {
        "sum over all terms against jax.grad": {
            "U": audit.difference(terms["U"].sum((0, 1)), params_bar.U),
            "W": audit.difference(terms["W"].sum((0, 1)), params_bar.W),
        },
        "term by term against gj.flow": {
            "U": audit.difference(terms["U"], split.U),
            "W": audit.difference(terms["W"], split.W),
        },
        "loss step 3, use steps 1, 2, 3, norms": {name: np.linalg.norm(terms[name][-1], axis=(1, 2)) for name in ("U", "W")},
        "V from the current step only, against jax.grad": audit.difference(np.einsum("th,to->ho", hs, e), V_bar),
    }


def run(options: Options) -> Outcome:
    """Judges all derivations, and trains with the right and the printed gradients."""
    readings, package = judge_fichou(options.seed), judge_package(options.seed)
    forward, layers, script = judge_forward(options.seed), judge_two_layers(options.seed), judge_seo()
    epochs, seeds = (2, 1) if options.quick else (10, 3)
    learned = {
        rule: [bptt.learn_addition(rule, jax.random.key(options.seed + s), epochs) for s in range(seeds)]
        for rule in ("right", "fichou", "package")
    }
    wrong = {name: [v.equation.name for v in verdicts if not v.right] for name, verdicts in readings.items()}
    every = [*package, *(verdict for verdicts in readings.values() for verdict in verdicts)]
    sums = double_sum(options.seed)
    summary = {
        "fichou_wrong": {name: len(names) for name, names in wrong.items()},
        "fichou_lines": len(next(iter(readings.values()))),
        "package_wrong": sum(not v.right for v in package),
        "package_lines": len(package),
        "largest_error_corrected": max(verdict.error_corrected for verdict in every),
        "two_layers": layers,
        "script_gradient_error": script[-1]["difference"],
        "double_sum": max(
            *sums["sum over all terms against jax.grad"].values(), *sums["term by term against gj.flow"].values()
        ),
        "sums_right": {rule: [float(run["sums"][-1]) for run in runs] for rule, runs in learned.items()},
    }
    results = {
        "fichou": {name: [record(verdict) for verdict in verdicts] for name, verdicts in readings.items()},
        "fichou_forward": forward,
        "fichou_lines_without_shapes": lines_without_shapes(options.seed),
        "package": [record(verdict) for verdict in package],
        "seo": script,
        "double_sum": sums,
        "addition": learned,
    }
    return Outcome(summary, results, {"addition.png": draw(learned)}, {"tables.md": tables(readings, package, script, results)})


def draw(learned: dict[str, Any]) -> plt.Figure:
    """Draws the fractions of correct bits and sums over epochs, one line per seed."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = {
        "right": "the right gradient",
        "fichou": "Fichou's lines as printed",
        "package": "the R package's lines as printed",
    }
    for axes, what in zip(panels, ("bits", "sums"), strict=True):
        for i, (rule, runs) in enumerate(learned.items()):
            for j, run in enumerate(runs):
                epochs = np.arange(1, len(run[what]) + 1)
                axes.plot(epochs, 100 * run[what], color=f"C{i}", alpha=0.8, label=None if j else names[rule])
        axes.set(xlabel="epoch", ylabel=f"{what} right (%)", title="binary addition, GRU of ten units", ylim=(0, 103))
        axes.grid(alpha=0.3)
    panels[0].legend()
    return figure


if __name__ == "__main__":
    main(run, x64=True)
