"""The table of all experiments, and the table of the main results."""

import numpy as np

from experiments.__main__ import experiments
from experiments.music.report import PAPER
from experiments.summary_tables.formatting import NONE, SINGLE, Row, fixed, markdown, percent, record, scientific, summary
from experiments.summary_tables.speed import GROUPS


def index() -> str:
    """Lists the experiments with their questions and the minutes of a full run."""
    minutes = lambda name: str(max(round(record(name)["seconds"] / 60), 1))
    rows = [(f"[{name}]({name}.py)", question, minutes(name)) for name, question in experiments().items()]
    return markdown(("experiment", "question", "minutes"), rows)


def main_results() -> str:
    """Tabulates the main results, for the README of the library."""
    return markdown(SINGLE, [*_gradients(), *_speed(), *_learning(), *_published()])


def _mean(values: list[float]) -> float:
    """Returns the mean over seeds."""
    return float(np.mean(values))


def _gradients() -> list[Row]:
    """Returns the rows on the correctness of gradients and of checkers."""
    digits, checkers = summary("digits"), summary("gradient_checkers")
    accepted = checkers["missed"]["ordinary"]
    passes = f"{checkers['wrong']} wrong GRU backward passes"
    return [
        (
            "derived gradient against autodiff on handwritten digits, float32, relative",
            "rounding",
            scientific(digits["largest_gradient_difference"]),
        ),
        (f"of {passes}, accepted by `check_grads` in float64", NONE, str(accepted["check_grads, float64"])),
        (f"of {passes}, accepted by `gj.verify_vjp`", "0", str(accepted["gj.verify_vjp"])),
    ]


def _speed() -> list[Row]:
    """Returns the rows on time and memory."""
    found, cost = summary("benchmark"), summary("derivative_cost")
    after, time = "GRU, reset after", "time of the fastest other JAX library over ours"
    faster = lambda group, cell, other="fastest": fixed(2)(found[f"{group}, {cell}"][f"{other}_over_ours"]["mean"])
    worst = min(found[f"{group}, {after}"]["fastest_over_ours"]["least"] for group in GROUPS)
    larger, autodiff = found[f"larger, {after}"], "autodiff_over_adjoint"
    return [
        (f"{time}: `gj.gru(reset_after=True)`, six larger shapes", "≥ 1.4", faster("larger", after)),
        (f"{time}: `gj.gru(reset_after=True)`, seven tiny shapes", "≥ 1.3", faster("tiny", after)),
        (f"{time}: `gj.gru(reset_after=True)`, four shapes with many sequences", "≥ 1", faster("batched", after)),
        (f"{time}: `gj.gru(reset_after=True)`, worst of these 17 shapes", "≥ 1", fixed(2)(worst)),
        (f"{time}: `gj.gru()`, six larger shapes", "≥ 1", faster("larger", "GRU")),
        ("time of PyTorch's GRU over ours, six larger shapes", "> 1", faster("larger", after, "PyTorch")),
        (
            "saving only states: memory over that of the leanest other library",
            "≤ 1/3",
            fixed(2)(larger["temp_states_over_leanest_plain"]),
        ),
        (
            f"{time}: batch over two CPU devices",
            "≥ 1.3",
            fixed(2)(found["devices, shard_map"]["fastest_over_ours"]["mean"]),
        ),
        ("time of autodiff over the derived gradient, 12 cases", "> 1", fixed(2)(cost["plain"][autodiff])),
    ]


def _learning() -> list[Row]:
    """Returns the rows on what the networks learn, as means over seeds."""
    music, copying = summary("polyphonic_music"), summary("copy_memory")
    published = PAPER["GRU"]
    tasks: list[Row] = [
        (
            "handwritten digits by rows, GRU of 64 units: test accuracy",
            "≥ 96 %",
            percent(2)(_mean(summary("digits")["gru_test_accuracy"])),
        ),
        (
            "copying ten symbols over 30 blanks, GRU of 128 units: correct symbols",
            "> 99 %",
            percent(1)(_mean(copying["accuracy"]["30"]["GRU, zero biases"])),
        ),
        (
            "tinyshakespeare, GRU of 256 units: nats per character on validation",
            "< 1.7",
            fixed(3)(_mean(summary("char_lm")["valid_nats"])),
        ),
    ]
    frames: list[Row] = [
        (f"{name}, GRU of 46 units: nats per frame on test", f"{published[name]:.2f}", fixed(2)(_mean(by_unit["GRU"])))
        for name, by_unit in music["test"].items()
    ]
    return tasks + frames


def _published() -> list[Row]:
    """Returns the rows on published tutorials and derivations."""
    counting, audit = summary("count_ones"), summary("published_derivations")
    return [
        (
            "counting RNN of Seo and Roelants: quoted numbers reproduced",
            str(counting["published_numbers"]),
            str(counting["equal"]),
        ),
        (f"GRU derivation of the R package rnn: wrong lines of {audit['package_lines']}", NONE, str(audit["package_wrong"])),
    ]
