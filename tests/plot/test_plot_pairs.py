"""Tests of the corner plot."""

import itertools

import numpy as np
import pytest

from flowprop import plot


class TestPairs:
    samples = np.random.default_rng(0).normal(size=(200, 3)) * [1, 100, 0.01]

    def test_panels_have_the_units_of_the_data(self):
        truth = np.array([5.0, 0.0, 0.0])
        figure = plot.pairs(self.samples, self.samples + 1, truth, ["a", "b", "c"], max_points=50)
        axes = np.array(figure.axes[:9]).reshape(3, 3)
        for row, column in itertools.product(range(3), range(3)):
            ax = axes[row, column]
            if column > row:
                assert not ax.axison
                continue
            low, high = ax.get_xlim()
            assert low < np.quantile(self.samples[:, column], 0.01) < truth[column] < high
            assert ax.get_xlim() == axes[column, column].get_xlim()
            assert ax.get_xlabel() == ("abc"[column] if row == 2 else "")
            assert ax.get_ylabel() == ("abc"[row] if column == 0 and row > 0 else "")
        reference, drawn = axes[2, 0].collections
        np.testing.assert_allclose(drawn.get_offsets(), self.samples[:50, [0, 2]])
        np.testing.assert_allclose(reference.get_offsets(), self.samples[:50, [0, 2]] + 1)
        texts = [text.get_text() for text in axes[0, 2].get_legend().get_texts()]
        assert texts == ["posterior", "reference", "truth"]

    def test_one_coordinate_is_one_histogram(self):
        figure = plot.pairs(self.samples[:, :1])
        (ax,) = figure.axes
        assert ax.get_xlabel() == "0"

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(ValueError, match="`names` has 1 names where 3"):
            plot.pairs(self.samples, names=["a"])
        with pytest.raises(ValueError, match="`reference` is empty or"):
            plot.pairs(self.samples, self.samples * np.nan)
        with pytest.raises(TypeError, match="reference"):
            plot.pairs(self.samples, self.samples[:, :2])
