"""Which equations of the published GRU derivations are right, and what do the wrong ones cost?

Every printed line of Fichou's "GRU units", of the GRU in the R package `rnn`, and every error of Seo's script x_gru.py, evaluated as
printed beside the true cotangent from `jax.grad` (`experiments/published` holds the lines). A line is judged by itself, everything
it uses being right, and within its own chain; where it is wrong the corrected line stands beside it, and the corrected chain must
reproduce `jax.grad` to rounding: over one step, and Fichou's over two layers and several steps too, where δ24 enters the layer
below and δ23 the step before. Where the names W and U are ambiguous both readings are judged.

Then the double sum of the general RNN formulas, ∂J/∂U = Σ_t Σ_{k≤t} ∂J_t/∂h_t J_tᵀ … J_{k+1}ᵀ ∂⁺h_k/∂U, evaluated literally,
term by term.

Expectation: the verdicts of those who read the derivations by eye hold (they missed two errors); corrected chains agree to 1e-15;
binary addition (the R package's own example: 5,000 pairs, eight bits, ten units, rate 0.1) is learned with the right gradient, not
with the printed ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gru_jax as gj
from experiments.common import Options, Outcome, main
from experiments.published import audit, bptt, fichou, rnn_package, seo
from experiments.published.report import row, tables
from gru_jax.cells import ElmanParams, GRUParams

ROWS, UNITS, STEPS = 3, 4, 5  # batch, equal input and hidden size, and steps of the two layers


def drawn(seed: int, rows: int = ROWS, inputs: int = UNITS) -> tuple[audit.Values, dict[str, Any], Any]:
    """A step's values, the deltas the chains start from, and the truth about the state's cotangent."""
    keys = iter(jax.random.split(jax.random.key(seed), 16))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    v = {name: normal(inputs if name[0] == "U" else UNITS, UNITS) for name in audit.WEIGHTS}
    v = audit.step_values(v | {"x": normal(rows, inputs), "h₋": normal(rows, UNITS)})
    return v, {"δ1": normal(rows, UNITS), "δ2": normal(rows, UNITS), "e": normal(rows, 2)}, normal(UNITS, 2)


def judge_fichou(seed: int) -> dict[str, list[audit.Verdict]]:
    """Both readings."""
    v, given, _ = drawn(seed)
    deltas = {name: given[name] for name in ("δ1", "δ2")}
    return {name: audit.judge(fichou.equations(r), deltas, v, given["δ1"] + given["δ2"]) for name, r in fichou.READINGS.items()}


def judge_package(seed: int) -> list[audit.Verdict]:
    """The R package's lines, at the last step: there δ_f would be 0, so a later one's is given."""
    v, given, V = drawn(seed)
    h = audit.forward(v, dict.fromkeys(audit.PROBES, 0.0))
    deltas = {"e": given["e"], "δ_f": given["δ2"], "V̄": h.T @ given["e"]}
    return audit.judge(rnn_package.equations(), deltas, v | {"h": h, "V": V}, given["e"] @ V.T + given["δ2"])


def lines_without_shapes(seed: int) -> dict[str, list[str]]:
    """Lines of Fichou's that have no shape, or another one than what they mean, once input and hidden size differ."""
    v, given, _ = drawn(seed, inputs=UNITS + 2)
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
    """Fichou's forward lines against the library's GRU; g has W_g on the left: no shape for a batch of rows, and with as many rows as
    units a number, a wrong one."""
    v, _, _ = drawn(seed, rows=UNITS)
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
    batch, _, _ = drawn(seed)
    try:
        batch["W_g"] @ (batch["h₋"] * batch["r"])
        shapes = "match"
    except TypeError:
        shapes = "do not match"
    return {"errors": errors, "shapes of g for a batch of rows": shapes}


def judge_two_layers(seed: int) -> dict[str, float]:
    """Two layers of unequal sizes, several steps: the chain's weight gradients against `jax.grad`, corrected and as printed."""
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
    """Each error alone, and all: the two gradients, and how far they are from the truth."""
    truth = seo.true_gradient()
    rows = [("none", "", "", frozenset()), ("all", "", "", frozenset(seo.ERRORS))]
    rows[1:1] = [(error, *what, frozenset([error])) for error, what in seo.ERRORS.items()]
    found = []
    for error, printed, correct, made in rows:
        bars = seo.gradient(made)
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
    """The general formulas, literally: h = tanh(x W + h₋ U + b), ŷ = h V, J = 1/T Σ ½ (ŷ − y)², every term by products of Jacobians."""
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
    whole = lambda params, V: sum(loss_at(V, t, h) for t, h in enumerate(gj.unroll(cell, params, xs, derivative="autodiff")[1]))
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
    """The audit, and what the errors cost."""
    readings, package = judge_fichou(options.seed), judge_package(options.seed)
    by_name, layers, script = judge_forward(options.seed), judge_two_layers(options.seed), judge_seo()
    epochs, seeds = (2, 1) if options.quick else (10, 3)
    learned = {
        how: [bptt.learn_addition(how, jax.random.key(options.seed + s), epochs) for s in range(seeds)]
        for how in ("right", "fichou", "package")
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
        "sums_right": {how: [float(run["sums"][-1]) for run in runs] for how, runs in learned.items()},
    }
    results = {
        "fichou": {name: [row(verdict) for verdict in verdicts] for name, verdicts in readings.items()},
        "fichou_forward": by_name,
        "fichou_lines_without_shapes": lines_without_shapes(options.seed),
        "package": [row(verdict) for verdict in package],
        "seo": script,
        "double_sum": sums,
        "addition": learned,
    }
    return Outcome(summary, results, {"addition.png": draw(learned)}, {"tables.md": tables(readings, package, script, results)})


def draw(learned: dict[str, Any]) -> plt.Figure:
    """Bits and sums by epoch, a line per seed."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = {
        "right": "the right gradient",
        "fichou": "Fichou's lines as printed",
        "package": "the R package's lines as printed",
    }
    for axes, what in zip(panels, ("bits", "sums"), strict=True):
        for i, (how, runs) in enumerate(learned.items()):
            for j, run in enumerate(runs):
                epochs = np.arange(1, len(run[what]) + 1)
                axes.plot(epochs, 100 * run[what], color=f"C{i}", alpha=0.8, label=None if j else names[how])
        axes.set(xlabel="epoch", ylabel=f"{what} right (%)", title="binary addition, GRU of ten units", ylim=(0, 103))
        axes.grid(alpha=0.3)
    panels[0].legend()
    return figure


if __name__ == "__main__":
    main(run, x64=True)
