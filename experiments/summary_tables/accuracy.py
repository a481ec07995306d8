"""The tables of what the networks learn."""

from experiments.music.report import PAPER
from experiments.summary_tables.formatting import (
    BAI,
    CHUNG,
    NANOGPT,
    NONE,
    OURS,
    PASCANU,
    SEEDED,
    fixed,
    markdown,
    over_seeds,
    percent,
    scientific,
    summary,
)

LARGER_GRU = {"JSB Chorales": 8.43, "Nottingham": 3.46}  # nats per frame of a larger GRU in Bai et al. 2018


def digits() -> str:
    """Tabulates the accuracy on handwritten digits, read row by row and pixel by pixel."""
    by_rows, by_pixels = summary("digits"), summary("digits_by_pixels")["test_accuracy"]
    expected = {"gru": ("≥ 96 %", OURS)}
    rows = [
        (
            f"row by row: {name}, 64 units",
            *expected.get(key, (NONE, NONE)),
            *over_seeds(by_rows[f"{key}_test_accuracy"], percent(2), min),
        )
        for key, name in {"gru": "GRU", "lstm": "LSTM", "tanh": "tanh RNN"}.items()
    ]
    starts = {
        "GRU, chrono": "GRU, 64 units, chrono initialisation",
        "GRU": "GRU, 64 units, zero biases",
        "LSTM, chrono": "LSTM, 64 units, chrono initialisation",
        "LSTM": "LSTM, 64 units, zero biases",
        "tanh RNN": "tanh RNN, 64 units",
    }
    rows += [
        (
            f"pixel by pixel: {name}",
            *(("≥ 95 %", OURS) if key == "GRU, chrono" else (NONE, NONE)),
            *over_seeds(by_pixels[key], percent(1), min),
        )
        for key, name in starts.items()
    ]
    difference = scientific(by_rows["largest_gradient_difference"])
    rows.append(("largest relative difference of the gradient from autodiff, float32", "rounding", OURS, difference, NONE))
    return markdown(SEEDED, rows)


def music() -> str:
    """Tabulates the nats per frame on the test pieces."""
    published = {**PAPER, "larger GRU": LARGER_GRU}
    units = {"tanh RNN": "tanh RNN, 100 units", "GRU": "GRU, 46 units", "LSTM": "LSTM, 36 units"}
    units |= {"larger GRU": "GRU, 256 units"}
    rows = [
        (
            f"{name}: {units[unit]}",
            f"{published[unit][name]:.2f}",
            BAI if unit == "larger GRU" else CHUNG,
            *over_seeds(values, fixed(2), max),
        )
        for name, by_unit in summary("polyphonic_music")["test"].items()
        for unit, values in by_unit.items()
    ]
    return markdown(SEEDED, rows)


def memory_tasks() -> str:
    """Tabulates the adding problem, copy memory and parity."""
    adding, copying, parity = (summary(name) for name in ("adding", "copy_memory", "parity"))
    published = {"T = 400, GRU, chrono": ("5.3e-05 at T = 600", BAI), "T = 400, LSTM, chrono": ("0.164 at T = 600", BAI)}
    published |= {kind: ("< 1e-3", OURS) for kind in ("T = 100, GRU", "T = 100, GRU, chrono", "T = 100, LSTM, chrono")}
    published |= {"T = 100, tanh RNN": ("1/6 (guessing)", "variance of the target")}
    rows = [
        (f"adding, {kind}: squared error", *published[kind], *over_seeds(values, scientific, max))
        for kind, values in adding["mse"].items()
    ]
    rows += [
        (f"adding, {kind}: errors above 0.04", "< 1 %", PASCANU, *over_seeds(values, percent(1), max))
        for kind, values in adding["unsolved"].items()
        if kind.startswith("T = 400")
    ]
    targets = {"30": ("> 99 %", OURS), "100": ("< 20 % before T = 200", BAI)}
    rows += [
        (f"copying over {T} blanks, {kind}: correct symbols", *targets[T], *over_seeds(values, percent(1), min))
        for T, kinds in copying["accuracy"].items()
        for kind, values in kinds.items()
    ]
    rows += [
        (
            f"parity, {cell}: correct at lengths {lengths}",
            *(("≥ 99 %", OURS) if lengths == "1–40" else (NONE, NONE)),
            *over_seeds(values, percent(1), min),
        )
        for cell, by_length in parity["accuracy"].items()
        for lengths, values in by_length.items()
    ]
    return markdown(SEEDED, rows)


def binary_addition() -> str:
    """Tabulates the fraction of correct sums in binary addition."""
    found = summary("binary_addition")
    rows = [
        (
            f"lowest bit first, {cell}",
            *(("100 %", OURS) if cell == "GRU" else (NONE, NONE)),
            *over_seeds(values, percent(0), min),
        )
        for cell, values in found["sums_right"]["package"].items()
    ]
    rows += [
        (f"highest bit first, {cell}", "fails", OURS, *over_seeds(values, percent(0), min))
        for cell, values in found["sums_right"]["package, highest bit first"].items()
    ]
    rows += [
        (f"trained on 8 bits with Adam, tested on 64, {cell}", NONE, NONE, *over_seeds(by_bits["64"], percent(0), min))
        for cell, by_bits in found["sums_right_of_bits"].items()
    ]
    return markdown(SEEDED, rows)


def characters() -> str:
    """Tabulates the nats per character on Shakespeare."""
    found = summary("char_lm")
    rows = [
        ("GRU, 256 units", "< 1.7", OURS, *over_seeds(found["valid_nats"], fixed(3), max)),
        ("bigram model", NONE, NONE, fixed(3)(found["bigram_nats"]), NONE),
        ("transformer, small CPU setting", "1.88", NANOGPT, NONE, NONE),
        ("transformer, GPU setting", "1.47", NANOGPT, NONE, NONE),
    ]
    return markdown(SEEDED, rows)
