"""The two baselines of Boulanger-Lewandowski et al. 2012 (their Table 1) that use no network.

Reproducing them confirms that the data and the measure are the same as theirs: nats summed over 88
notes, averaged over all frames of all pieces, including first frames.
"""

import numpy as np

from experiments.data import NOTES

PUBLISHED = {
    "JSB Chorales": {"note 1-gram": "11.06", "note 1-gram (IID)": "15.93"},
    "Nottingham": {"note 1-gram": "10.25", "note 1-gram (IID)": "16.24"},
    "MuseData": {"note 1-gram": "11.51", "note 1-gram (IID)": "14.06"},
    "Piano-midi": {"note 1-gram": "11.05", "note 1-gram (IID)": "12.90"},
}


def nats_per_frame(chances: np.ndarray, pieces: list[np.ndarray]) -> float:
    """Returns the mean over all frames of −Σ_k log Bernoulli(y_k; chances_k)."""
    frames = np.concatenate(pieces).astype(bool)
    return float(-np.where(frames, np.log(chances), np.log1p(-chances)).sum(1).mean())


def note_1gram(train: list[np.ndarray], test: list[np.ndarray]) -> float:
    """Predicts each note by its own frequency in the training set.

    ½ is added to both counts. Otherwise a note that never sounds in the training set would cost
    infinitely many nats.
    """
    frames = np.concatenate(train)
    return nats_per_frame((frames.sum(0) + 0.5) / (len(frames) + 1), test)


def note_1gram_iid(train: list[np.ndarray], test: list[np.ndarray]) -> float:
    """Predicts all notes by one frequency."""
    return nats_per_frame(np.full(NOTES, np.concatenate(train).mean()), test)
