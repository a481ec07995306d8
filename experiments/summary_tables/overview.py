"""The table of all experiments, and the table of the main results."""

import numpy as np

from experiments.__main__ import experiments, minutes
from experiments.music.report import PAPER
from experiments.summary_tables.formatting import SINGLE, Row, fixed, markdown, percent, scientific, summary
from experiments.summary_tables.speed import GROUPS


def index() -> str:
    """Lists the experiments with their questions and the minutes of a full run."""
    rows = [(f"[{name}]({name}.py)", question, str(minutes(name) or "needs a GPU")) for name, question in experiments().items()]
    return markdown(("experiment", "question", "minutes"), rows)


def main_results() -> str:
    """Tabulates the main results, for the README of the library."""
    return markdown(SINGLE, [*_gradients(), *_speed(), *_learning()])


def why() -> str:
    """Lists the reasons to use the library, with their main figures."""
    larger, checkers = summary("benchmark")["larger, GRU, reset after"], summary("gradient_checkers")
    accepted, wrong = checkers["missed"]["ordinary"], checkers["wrong"]
    less_time = percent(0)(1 - 1 / larger["fastest_over_ours"]["mean"])
    memory = percent(0)(larger["temp_states_over_leanest_plain"])
    reasons = {
        "Fast": f"The gradient of a GRU takes {less_time} less time than with the fastest other JAX library.",
        "Lean": f"If it saves only the states, it needs {memory} of the memory of the leanest other library.",
        "Complete": "Lengths, masks, resets, mixed precision, stacks, both directions, dropout, forward mode, several devices.",
        "Open": "A cell of your own needs four functions. Its derivation is optional.",
        "Verified": (
            f"`gj.verify_vjp` accepts {accepted['gj.verify_vjp']} of {wrong} wrong backward passes of a GRU, "
            f"`check_grads` in float64 {accepted['check_grads, float64']}. Use it for your own rules."
        ),
    }
    return "\n".join(f"- **{name}.** {text}" for name, text in reasons.items())


def _mean(values: list[float]) -> float:
    """Returns the mean over seeds."""
    return float(np.mean(values))


def _gradients() -> list[Row]:
    """Returns the rows on the correctness of gradients and of checkers."""
    digits, strangers = summary("digits"), summary("strangers")
    return [
        (
            "derived gradient against autodiff on handwritten digits, float32, relative",
            "< 1e-5",
            scientific(digits["largest_gradient_difference"]),
        ),
        (
            f"of {strangers['right']} right rules of other people, rejected by `gj.verify_vjp`",
            "0",
            str(strangers["right rejected"]),
        ),
        (
            f"of {strangers['wrong']} wrong rules of other people, accepted by `gj.verify_vjp`",
            "0",
            str(strangers["wrong accepted"]),
        ),
    ]


def _speed() -> list[Row]:
    """Returns the rows on time and memory."""
    found, after = summary("benchmark"), "GRU, reset after"
    larger, time = found[f"larger, {after}"], "time of the fastest other JAX library over ours"
    worst = min(found[f"{group}, {after}"]["fastest_over_ours"]["least"] for group in GROUPS)
    return [
        (f"{time}: `gj.gru(reset_after=True)`, six larger shapes", "≥ 1.4", fixed(2)(larger["fastest_over_ours"]["mean"])),
        (f"{time}: `gj.gru(reset_after=True)`, worst of 21 shapes", "≥ 1", fixed(2)(worst)),
        (
            "saving only states: memory over that of the leanest other library",
            "≤ 1/3",
            fixed(2)(larger["temp_states_over_leanest_plain"]),
        ),
    ]


def _learning() -> list[Row]:
    """Returns the rows on what the networks learn, as means over seeds."""
    jsb = summary("polyphonic_music")["test"]["JSB Chorales"]
    accuracy = _mean(summary("digits")["gru_test_accuracy"])
    return [
        ("handwritten digits by rows, GRU of 64 units: test accuracy", "≥ 96 %", percent(2)(accuracy)),
        (
            "JSB Chorales, GRU of 46 units: nats per frame on test",
            f"{PAPER['GRU']['JSB Chorales']:.2f}",
            fixed(2)(_mean(jsb["GRU"])),
        ),
    ]
