"""Plots show every value: zeros, very large numbers, infinity and NaN."""

import matplotlib as mpl
import numpy as np
import pytest

import gru_jax as gj
from tests.problems import assert_raises

mpl.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


NORMS = np.array([[1e-30, 0.0, 0.0], [1e5, 2.0, 0.0], [np.inf, np.nan, 1e30]])


def test_colours_span_all_finite_values_without_clipping(axes):
    image = gj.plot.contribution_heatmap(axes, NORMS, "GRU")
    assert (image.norm.vmin, image.norm.vmax) == (1e-30, 1e30)
    assert image.get_array().mask.tolist() == [[False, True, True], [False, False, True], [True, True, False]]
    assert axes.get_title() == "GRU (2 not finite: red)"
    red = axes.images[1].get_array()
    assert np.argwhere(red[..., 3] == 1).tolist() == [[2, 0], [2, 1]]


def test_a_heat_map_without_a_positive_value_can_be_drawn(axes):
    image = gj.plot.contribution_heatmap(axes, np.zeros((3, 3)))
    axes.figure.canvas.draw()
    assert image.get_array().mask.all()


def test_gradient_decay_draws_the_last_row_backwards_and_counts_nonfinite_values(axes):
    line = gj.plot.gradient_decay(axes, np.array([[9.0, 9.0, 9.0], [np.inf, 3.0, 2.0]]), "tanh")
    np.testing.assert_array_equal(line.get_ydata(), [2.0, 3.0, np.nan])
    assert line.get_label() == "tanh (1 not finite)"


def test_bad_input_raises(axes):
    assert_raises(
        lambda: gj.plot.contribution_heatmap(axes, np.ones((3, 3, 2))),
        ValueError,
        r"norms: got an array of shape \(3, 3, 2\).*mean",
    )
    assert_raises(lambda: gj.plot.contribution_heatmap(axes, -np.ones((3, 3))), ValueError, r"norms: got .*smallest value -1")
    assert_raises(lambda: gj.plot.gradient_decay(axes, np.ones(3)), ValueError, r"sensitivity: got shape \(3,\)")
