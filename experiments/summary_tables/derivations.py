"""The tables of the tutorials, the published derivations, the gradient checkers and the gradient flow."""

import numpy as np

from experiments.summary_tables.formatting import (
    NONE,
    OURS,
    ROELANTS,
    SEO,
    SOURCED,
    fixed,
    markdown,
    percent,
    record,
    scientific,
    summary,
)


def tutorials() -> str:
    """Tabulates the reproduction of published tutorials."""
    counting, gru = summary("count_ones"), summary("gru_by_hand")
    sequences = record("gru_by_hand")["results"]["five_sequences"]
    published = sequences["published"]
    both = f"{ROELANTS}, [Seo](https://github.com/JaeDukSeo/Only_Numpy_Basic)"
    costs = {
        "Seo's GRU script, its own formulas: the last cost it prints": ("script, cost at 4999", SEO),
        "the same task, correct gradient, the script's rates: final cost": (
            "correct GRU, the script's rates, cost at 5000",
            OURS,
        ),
        "the same task, correct gradient, rate 0.01: final cost": ("correct GRU, lr 0.01, cost at 5000", OURS),
    }
    rows = [
        (
            "counting RNN: quoted numbers reproduced to every digit",
            str(counting["published_numbers"]),
            both,
            str(counting["equal"]),
        ),
        ("counting RNN: wx after 500 steps of Rprop", "1.0014", ROELANTS, fixed(4)(counting["rprop_wx"])),
        ("counting RNN: wrec after 500 steps of Rprop", "0.9997", ROELANTS, fixed(4)(counting["rprop_wrec"])),
        (
            "multiplications for T = 400: one by one, over shared",
            "(T² + T) / (3T − 1)",
            "[counted](tutorials/counting-ones.md)",
            fixed(1)(counting["sharing_multiplications_ratio"]),
        ),
        (
            "written-out GRU: largest difference of a part from autodiff",
            "rounding",
            OURS,
            scientific(gru["largest_difference_of_a_part"]),
        ),
        ("written-out GRU: operations, every term from scratch", NONE, NONE, str(gru["operations_from_scratch"])),
        ("written-out GRU: operations, shared variables", NONE, NONE, str(gru["operations_shared"])),
        *(
            (label, published[key]["published"], source, fixed(7)(published[key]["ours"]))
            for label, (key, source) in costs.items()
        ),
        (
            "the same task, a cost at every stamp, rate 0.01: final cost",
            NONE,
            NONE,
            fixed(7)(gru["final_cost"]["correct, lr 0.01, cost at every stamp"]),
        ),
        ("that run's cost on the last state", NONE, NONE, fixed(7)(sequences["every_stamp_run_by_last_state"])),
    ]
    return markdown(SOURCED, rows)


def derivations() -> str:
    """Tabulates the audit of published derivations."""
    found = summary("published_derivations")
    forward, backward = found["fichou_wrong"].values()
    sums = {"right": "the right gradient", "fichou": "Fichou's lines", "package": "the R package's lines"}
    accuracy = {rule: float(np.mean(values)) for rule, values in found["sums_right"].items()}
    rows = [
        (f"Fichou: wrong lines of {found['fichou_lines']}, W on h₋ as in his forward pass", "13", OURS, str(forward)),
        (f"Fichou: wrong lines of {found['fichou_lines']}, W on x", "7", OURS, str(backward)),
        (f"R package: wrong lines of {found['package_lines']}", NONE, NONE, str(found["package_wrong"])),
        (
            "corrected chains, one step: error against `jax.grad`",
            "rounding",
            OURS,
            scientific(found["largest_error_corrected"]),
        ),
        ("corrected chain, two layers, five steps: error", "rounding", OURS, scientific(found["two_layers"]["corrected"])),
        ("double sum of the general formulas: error", "rounding", OURS, scientific(found["double_sum"])),
        *(
            (
                f"binary addition with {label}: correct sums, mean over seeds",
                *(("100 %", OURS) if rule == "right" else (NONE, NONE)),
                percent(0)(accuracy[rule]),
            )
            for rule, label in sums.items()
        ),
    ]
    return markdown(SOURCED, rows)


def checkers() -> str:
    """Tabulates how many wrong backward passes each checker accepts, by kind of input."""
    found = summary("gradient_checkers")
    kinds = ("ordinary", "saturated", "hurried")
    names = {
        "check_grads, float32": "`check_grads`, float32",
        "check_grads, float64": "`check_grads`, float64",
        "x̄ alone": "x̄ only, cotangents of ones, float32",
        "every leaf, allclose": "every leaf, cotangents of ones, float32",
        "gj.verify_vjp": "`gj.verify_vjp`",
    }
    counts = lambda by_kind, name: (str(by_kind[kind][name]) for kind in kinds)
    silent = found["missed_by_verify_vjp_silently"]
    rows = [(f"{label}: wrong passes accepted", *counts(found["missed"], name)) for name, label in names.items()]
    rows.append(("`gj.verify_vjp`: accepted without reporting blind inputs", *(str(silent[kind]) for kind in kinds)))
    rows += [(f"{label}: right passes rejected", *counts(found["right_rejected"], name)) for name, label in names.items()]
    header = (f"of {found['wrong']} wrong and {found['right']} right passes", "random inputs", "saturated inputs")
    return markdown((*header, "constant weights, h₀ = 0"), rows)


def flow() -> str:
    """Tabulates how much of a gradient survives 40 steps."""
    found = summary("gradient_flow")
    significant = lambda value: f"{value:.2g}"
    keys = ("kept_before", "kept_after", "loss_after")
    rows = [(name, *(significant(found[key][name]) for key in keys)) for name in ("linear RNN", "tanh RNN", "GRU", "LSTM")]
    header = ("", "gradient left before training", "gradient left after training", "squared error after training")
    return markdown(header, rows)


def flow_cost() -> str:
    """Tabulates the time of splitting a gradient into terms over that of the gradient."""
    times = lambda row, name: f"{row[f'{name}_ms'] / row['gradient_ms']:.0f}"
    rows = [
        (str(row["steps"]), times(row, "contributions"), times(row, "contribution_norms"))
        for row in record("gradient_flow")["results"]["cost"]
    ]
    return markdown(("T", "all terms", "norms only"), rows)


def strangers() -> str:
    """Tabulates how `gj.verify_vjp` and `check_grads` judge the rules of other people."""
    found = summary("strangers")
    rows = [
        ("right rules", NONE, str(found["right"])),
        ("rejected by `gj.verify_vjp`", "0", str(found["right rejected"])),
        ("neither accepted nor rejected by `gj.verify_vjp`", "0", str(found["right undecided"])),
        ("rejected by `check_grads` in float64", NONE, str(found["right_rejected_by_check_grads"])),
        ("wrong rules whose fault shows", NONE, str(found["wrong"])),
        ("accepted by `gj.verify_vjp`", "0", str(found["wrong accepted"])),
        ("neither accepted nor rejected by `gj.verify_vjp`", NONE, str(found["wrong undecided"])),
        ("accepted by `check_grads` in float64", NONE, str(found["wrong_accepted_by_check_grads"])),
        ("wrong rules that the inputs hide", NONE, str(found["invisible"])),
        ("accepted by `gj.verify_vjp` without a word about the inputs", "0", str(found["unannounced"])),
        ("CPU seconds for a rule, all checks, at the median", "≤ 10", f"{found['median_seconds']:.1f}"),
        ("CPU seconds for a rule, all checks, at most", NONE, f"{found['largest_seconds']:.1f}"),
    ]
    return markdown(("", "expected", "result"), rows)


def strangers_by_class() -> str:
    """Tabulates the judgements of `gj.verify_vjp` by class of rules."""
    columns = (
        "right",
        "right rejected",
        "right undecided",
        "wrong",
        "wrong accepted",
        "wrong undecided",
        "invisible",
        "unannounced",
    )
    rows = [
        (kind.replace("_", " "), *(str(found[column]) for column in columns), f"{found['median_seconds']:.1f}")
        for kind, found in record("strangers")["results"]["by_class"].items()
    ]
    header = (
        "class",
        "right",
        "rejected",
        "undecided",
        "wrong",
        "accepted",
        "undecided",
        "hidden",
        "unannounced",
        "CPU seconds",
    )
    return markdown(header, rows)
