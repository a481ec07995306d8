"""Which unit models polyphonic music best: tanh, GRU or LSTM, as in the paper's table, and how far does a larger GRU get?

Chung et al. 2014, Table 2: a tanh RNN of 100 units, a GRU of 46 and an LSTM of 36, of about the same size, on four sets of piano
rolls; each predicts the next frame's 88 notes as independent Bernoulli variables. Negative log-likelihood in nats per frame, summed over
notes, on the test pieces, of the parameters with the best validation.

The paper trains with RMSProp and weight noise, and does not say over what its numbers are averaged; others pool all predicted frames.
Four averages are given here (`music.model`): frames pooled or the mean of the pieces' means, first frames counted or not. Here Adam
with a cosine to a hundredth, gradient norm clipped at 1, dropout with one mask per piece; learning rate and dropout of each set and
unit are those with the best validation of `--tune` (seed 0), which tries every pair of `RATES` and `DROPOUTS`.

Expectation: GRU-46 at most 8.54 on JSB Chorales, 3.5 on Nottingham, 8.82 on Piano-midi (pooled, first frames not counted); MuseData near
the 7.0–8.1 of others, not the paper's 5.99; a larger GRU at most 8.43 and 3.3 on the first two, where a TCN has 8.10 and 3.07.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import gru_jax as gj
from experiments import data, network
from experiments.common import Options, Outcome, main
from experiments.music import midi
from experiments.music.baselines import note_1gram, note_1gram_iid
from experiments.music.model import Model, batches_of, describe, evaluate, init, loss_fn
from experiments.music.report import draw_curves, table

UNITS: dict[str, tuple[gj.Cell, int]] = {
    "tanh RNN": (gj.elman("tanh"), 100),
    "GRU": (gj.gru(), 46),
    "LSTM": (gj.lstm(peephole=True), 36),
}




OPENING = 8  # frames of a real piece that the network goes on from


class Setting(NamedTuple):
    """How a network is trained."""

    rate: float
    state: float = 0.0  # dropout of each
    inputs: float = 0.0
    outputs: float = 0.0


class Schedule(NamedTuple):
    """Of a set: pieces per batch, buckets of similar length, epochs, and how many without a better validation end training."""

    batch: int
    buckets: int
    epochs: int
    patience: int


SCHEDULES = {
    "JSB Chorales": Schedule(16, 3, 150, 30),
    "Nottingham": Schedule(16, 6, 60, 10),
    "MuseData": Schedule(16, 8, 50, 10),
    "Piano-midi": Schedule(8, 6, 80, 15),
}


RATES, DROPOUTS = (3e-3, 1e-2), ((0.0, 0.0), (0.1, 0.0), (0.2, 0.1))  # of (state, inputs)
SETTINGS = {  # the best validation of --tune
    name: {unit: Setting(1e-2, 0.2, 0.1) for unit in UNITS} for name in data.MUSIC
}
LARGER = {  # not tuned by a grid
    "JSB Chorales": (256, Setting(3e-3, 0.4, 0.2, 0.2)),
    "Nottingham": (256, Setting(3e-3, 0.2, 0.0, 0.2)),
}


@dataclass(frozen=True)
class MusicOptions(Options):
    """Also:

    Attributes:
        tune: try every learning rate and dropout on seed 0, and print the validation of each, instead.
        sets: which of the four.
    """

    tune: bool = False
    sets: tuple[str, ...] = tuple(data.MUSIC)


class Trained(NamedTuple):
    """One network after training."""

    params: Any  # of the best validation
    record: dict[str, Any]
    curve: dict[str, np.ndarray]


class Task:
    """One set and one model: compiled once for all seeds."""

    def __init__(self, name: str, model: Model, schedule: Schedule, rate: float, music: data.Music) -> None:
        self.model, self.schedule = model, schedule
        self.source = gj.train.bucketed(music.train, schedule.batch, buckets=schedule.buckets)
        self.steps = schedule.epochs * self.source.batches_per_epoch
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, self.steps, 0.01))
        )
        self.loss_fn = partial(loss_fn, model)
        self.splits = {split: batches_of(pieces) for split, pieces in music._asdict().items()}
        self.scores = {split: jax.jit(partial(evaluate, model, batches)) for split, batches in self.splits.items()}

    def validation(self, params: Any) -> dict[str, jax.Array]:
        """What training is stopped by."""
        return {"valid": evaluate(self.model, self.splits["valid"], params).pooled}

    def train(self, seed: int) -> Trained:
        """From a seed to the averages of the best parameters, and the curve."""
        key_init, key_fit = jax.random.split(jax.random.key(seed))
        each = self.source.batches_per_epoch
        clock = [time.perf_counter()]
        fit = gj.train.fit(
            self.loss_fn, init(self.model, key_init), self.optimizer, self.source, key=key_fit, steps=self.steps,
            steps_per_dispatch=each, evaluate=self.validation, evaluate_every=each, weight=frames_of,
            early_stopping=gj.train.EarlyStopping("valid", patience=self.schedule.patience),
            callbacks=[lambda moment: clock.append(time.perf_counter())],
        )  # fmt: skip
        found = {split: score(fit.best_params) for split, score in self.scores.items()}
        epochs = fit.steps // each
        record = {
            "seed": seed,
            "best_epoch": fit.best_step // each,
            "epochs": epochs,
            "updates_per_epoch": each,
            # the first epoch compiles; each includes the validation
            "seconds_per_epoch": float(np.median(np.diff(clock)[1:])) if epochs > 1 else None,
            **{split: averages._asdict() for split, averages in found.items()},
        }
        curve = {
            "updates": fit.evaluations["step"],
            "valid": fit.evaluations["valid"],
            "train": fit.history["loss"].reshape(epochs, each).mean(1),
        }
        return Trained(fit.best_params, jax.tree.map(float, record), curve)


def models(name: str) -> dict[str, tuple[Model, float]]:
    """The paper's three units, and a larger GRU, with their learning rates."""
    chosen = {
        unit: (Model(cell, units, *SETTINGS[name][unit][1:]), SETTINGS[name][unit].rate) for unit, (cell, units) in UNITS.items()
    }
    if name in LARGER:
        units, setting = LARGER[name]
        chosen["larger GRU"] = (Model(gj.gru(), units, *setting[1:]), setting.rate)
    return chosen


def frames_of(batch: gj.train.Padded) -> jax.Array:
    """What the loss of a batch is a mean over."""
    return batch.mask.sum()


def compose(model: Model, params: network.Params, music: data.Music, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A piece of the network's that begins as a test piece does, and that piece."""
    real = music.test[seed % len(music.test)]
    return midi.sample(model.cell, params, jax.random.key(seed), len(real), real[:OPENING]), real


def tune(options: MusicOptions) -> Outcome:
    """Every rate and dropout of the paper's units, on one seed."""
    found: dict[str, Any] = {}
    for name in options.sets:
        music = data.load_music(name)
        found[name] = {}
        for unit, (cell, units) in UNITS.items():
            for rate in RATES:
                for state, inputs in DROPOUTS:
                    task = Task(name, Model(cell, units, state, inputs), SCHEDULES[name], rate, music)
                    valid = task.train(options.seed).record["valid"]["pooled"]
                    found[name].setdefault(unit, []).append({"rate": rate, "state": state, "inputs": inputs, "valid": valid})
                    print(f"{name}, {unit}, rate {rate}, dropout of state {state}, of inputs {inputs}: validation {valid:.4f}")
    best = {name: {unit: min(tried, key=lambda one: one["valid"]) for unit, tried in units.items()} for name, units in found.items()}
    return Outcome({"best": best}, found, {})


def run(options: MusicOptions) -> Outcome:
    """Trains all networks on all seeds, and lets the best one for chorales compose."""
    if options.tune:
        return tune(options)
    sets, seeds = (["JSB Chorales"], [options.seed]) if options.quick else (options.sets, range(options.seed, options.seed + 3))
    results: dict[str, Any] = {}
    baselines, figures, files = {}, {}, {}
    for name in sets:
        music = data.load_music(name)
        baselines[name] = {
            "note 1-gram": note_1gram(music.train, music.test),
            "note 1-gram (IID)": note_1gram_iid(music.train, music.test),
        }
        results[name] = {}
        for unit, (model, rate) in models(name).items():
            if options.quick and unit != "GRU":
                continue
            schedule = SCHEDULES[name]._replace(**({"epochs": 12} if options.quick else {}))
            task = Task(name, model, schedule, rate, music)
            trained = [task.train(seed) for seed in seeds]
            results[name][unit] = {
                **describe(model),
                "rate": rate,
                "schedule": schedule._asdict(),
                "parameters": network.count(trained[0].params),
                "runs": [one.record for one in trained],
                "curves": [one.curve for one in trained],
            }
            print(f"{name}, {unit}: " + ", ".join(f"{one.record['test']['pooled']:.3f}" for one in trained) + " on test")
        if name == "JSB Chorales":
            roll, real = compose(model, trained[0].params, music, options.seed)
            rolls = {f"a test piece, its first {OPENING} frames given to the network": real, "the network": roll}
            figures["piano_rolls.png"] = midi.draw(rolls)
            files["sample.mid"] = midi.encode(roll, frames_per_beat=1)
    summary = {
        "test": {
            name: {unit: [run["test"]["pooled"] for run in found["runs"]] for unit, found in by_unit.items()}
            for name, by_unit in results.items()
        },
        "baselines": baselines,
        "seeds": list(seeds),
    }
    figures["curves.png"] = draw_curves(results)
    return Outcome(summary, results, figures, {"tables.md": table(results, baselines)}, files)


if __name__ == "__main__":
    main(run, MusicOptions)
