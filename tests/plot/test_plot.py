"""Tests that figures show the given data and do not change the state of matplotlib."""

import importlib
import sys

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from flowprop import plot


BOUNDS = ((-5.0, 5.0), (-4, 6))
MATRIX = np.array([[3, 1, 0], [0, 2, 2], [1, 0, 4]])


def standard_normal(z):
    return -0.5 * jnp.sum(z**2, axis=-1) - jnp.log(2 * jnp.pi)


def image_of(ax):
    return np.asarray(ax.images[0].get_array())


@pytest.fixture(autouse=True)
def nothing_left_behind():
    figures, settings = plt.get_fignums(), dict(mpl.rcParams)
    yield
    assert plt.get_fignums() == figures
    assert dict(mpl.rcParams) == settings


class TestGrid:
    def test_integral_of_a_normal_is_one(self):
        points, area = plot.grid_points(BOUNDS, 100)
        assert points.shape == (10_000, 2)
        assert float(jnp.sum(jnp.exp(standard_normal(points))) * area) == pytest.approx(1.0, abs=1e-4)

    def test_points_are_cell_centres_row_by_row(self):
        points, area = plot.grid_points(((0, 2), (10, 14)), 2)
        np.testing.assert_allclose(points, [[0.5, 11], [1.5, 11], [0.5, 13], [1.5, 13]])
        assert area == 2.0

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(ValueError, match=r"`bounds` holds \(2, 1\)"):
            plot.grid_points(((2, 1), (0, 1)), 5)
        with pytest.raises(ValueError, match="`resolution` is 0"):
            plot.grid_points(BOUNDS, 0)


class TestDensity:
    def test_image_shows_the_density_at_the_right_place(self):
        ax = plot.density_2d(
            lambda z: standard_normal(z - jnp.array([[3.0, -2.0]])), BOUNDS, resolution=50, chunk_size=999
        )
        shown = image_of(ax)
        row, column = np.unravel_index(shown.argmax(), shown.shape)
        x, y = plot.grid_points(BOUNDS, 50)[0][row * 50 + column]
        assert abs(x - 3.0) <= 0.1
        assert abs(y + 2.0) <= 0.1
        assert shown.max() == pytest.approx(1 / (2 * np.pi), rel=0.02)
        assert ax.images[0].get_extent() == [-5.0, 5.0, -4, 6]
        assert ax.images[0].origin == "lower"
        assert (ax.get_xlim(), ax.get_ylim(), ax.get_aspect()) == (*BOUNDS, 1.0)
        assert ax.child_axes[0].get_ylabel() == "density"

    def test_all_chunks_have_the_same_size(self):
        sizes = []

        def log_prob(z):
            sizes.append(len(z))
            return standard_normal(z)

        whole = image_of(plot.density_2d(standard_normal, BOUNDS, resolution=10))
        np.testing.assert_allclose(image_of(plot.density_2d(log_prob, BOUNDS, resolution=10, chunk_size=30)), whole)
        assert sizes == [30] * 4

    def test_accepts_values_instead_of_a_function(self):
        values = np.asarray(standard_normal(plot.grid_points(BOUNDS, 20)[0]))
        ax = plot.density_2d(values, BOUNDS, resolution=20)
        np.testing.assert_allclose(image_of(ax), np.exp(values).reshape(20, 20))

    def test_nats_below_peak_sets_the_colour_scale(self):
        ax = plot.density_2d(standard_normal, BOUNDS, resolution=51, nats_below_peak=8)
        low, high = ax.images[0].get_clim()
        assert high == pytest.approx(-np.log(2 * np.pi), abs=0.01)
        assert high - low == pytest.approx(8.0)
        assert ax.child_axes[0].get_ylabel() == "log-density (nats)"

    def test_samples_are_drawn_on_top(self):
        samples = np.random.default_rng(0).normal(size=(20, 2))
        ax = plot.density_2d(standard_normal, BOUNDS, resolution=5, samples=samples)
        np.testing.assert_array_equal(ax.collections[0].get_offsets(), samples)

    @pytest.mark.parametrize("value", [np.nan, -np.inf])
    def test_density_without_finite_values_is_drawn(self, value, tmp_path):
        plot.save(plot.density_2d(np.full(25, value), BOUNDS, resolution=5), tmp_path / "density.png")

    def test_zero_density_is_drawn_and_nan_is_masked(self):
        values = np.array([0.0, -np.inf, np.nan, -3.0])
        shown = plot.density_2d(values, BOUNDS, resolution=2, nats_below_peak=8).images[0].get_array()
        np.testing.assert_array_equal(shown.mask.ravel(), [False, False, True, False])
        np.testing.assert_array_equal(shown.ravel()[[0, 1, 3]], [0.0, -8.0, -3.0])

    def test_errors_name_wrong_values(self):
        with pytest.raises(ValueError, match=r"`log_prob\(points\)` has shape \(25, 2\) where \(25,\) is needed"):
            plot.density_2d(lambda z: z, BOUNDS, resolution=5)
        with pytest.raises(ValueError, match=r"`log_prob` has shape \(24,\) where \(25,\) is needed"):
            plot.density_2d(np.zeros(24), BOUNDS, resolution=5)
        with pytest.raises(ValueError, match="`chunk_size` is 0"):
            plot.density_2d(standard_normal, BOUNDS, chunk_size=0)
        with pytest.raises(TypeError, match="samples"):
            plot.density_2d(standard_normal, BOUNDS, samples=np.zeros((5, 3)))

    def test_draws_on_the_given_axes(self):
        ax = Figure().subplots()
        assert plot.density_2d(standard_normal, BOUNDS, resolution=5, ax=ax) is ax


class TestDensityAndSamples:
    samples = np.array([[0.0, 0.0], [1.0, 1.0], [9.0, 0.0]])

    def test_panels_share_limits_and_colour_scale(self):
        figure = plot.density_and_samples(
            standard_normal, self.samples, BOUNDS, true_log_prob=lambda z: standard_normal(z) + 1, resolution=21
        )
        true, model, drawn = figure.axes
        for ax in figure.axes:
            assert (ax.get_xlim(), ax.get_ylim(), ax.get_aspect()) == (*BOUNDS, 1.0)
        assert true.images[0].get_clim() == model.images[0].get_clim() == (0.0, pytest.approx(image_of(true).max()))
        np.testing.assert_allclose(image_of(true), np.e * image_of(model), rtol=1e-5)
        assert [ax.get_title() for ax in figure.axes] == ["true density", "model density", "3 samples, 1 outside"]
        np.testing.assert_array_equal(drawn.collections[0].get_offsets(), self.samples)

    def test_without_true_density_there_are_two_panels(self):
        axes = Figure().subplots(1, 2)
        figure = plot.density_and_samples(
            standard_normal,
            jnp.asarray(self.samples),
            BOUNDS,
            labels=jnp.array([0, 1, 1]),
            resolution=5,
            axes=list(axes),
        )
        assert figure is axes[0].figure
        first, second, third = axes[1].collections[0].get_facecolors()
        assert np.array_equal(second, third)
        assert not np.array_equal(first, second)

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(ValueError, match="`axes` has 1 panels: give 2"):
            plot.density_and_samples(standard_normal, self.samples, BOUNDS, resolution=5, axes=[Figure().subplots()])
        with pytest.raises(TypeError, match="labels"):
            plot.density_and_samples(standard_normal, self.samples, BOUNDS, labels=np.zeros(2, int))


class TestTrajectories:
    paths = np.random.default_rng(1).normal(size=(6, 11, 2))

    def test_draws_paths_and_end_points(self):
        ax = plot.trajectories(jnp.asarray(self.paths))
        lines, starts, ends = ax.collections
        np.testing.assert_allclose(np.stack(lines.get_segments()), self.paths, rtol=1e-6)
        np.testing.assert_allclose(starts.get_offsets(), self.paths[:, 0], rtol=1e-6)
        np.testing.assert_allclose(ends.get_offsets(), self.paths[:, -1], rtol=1e-6)
        (low, high) = ax.get_xlim()
        assert low < self.paths[..., 0].min() < self.paths[..., 0].max() < high

    def test_classes_have_own_colours_and_names(self):
        labels = np.array([0, 2, 0, 2, 0, 0])
        ax = plot.trajectories(self.paths, labels=labels, class_names=["a", "b", "c"], bounds=BOUNDS)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["noise, $t = 0$", "a", "c"]
        colors = ax.collections[2].get_facecolors()
        same = np.all(colors[:, None] == colors, axis=-1)
        np.testing.assert_array_equal(same, labels[:, None] == labels)
        assert (ax.get_xlim(), ax.get_ylim()) == BOUNDS

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(TypeError, match="paths"):
            plot.trajectories(np.zeros((6, 11, 3)))
        with pytest.raises(ValueError, match="`labels` holds classes from 0 to 3 where 0 to 1 are needed"):
            plot.trajectories(self.paths, labels=np.array([0, 1, 0, 1, 0, 3]), class_names=["a", "b"])


class TestLabelTrajectories:
    times = np.linspace(0, 1, 5)
    probabilities = np.asarray(jax.nn.softmax(np.random.default_rng(2).normal(size=(3, 5, 4))))
    images = np.random.default_rng(3).random((3, 8, 8, 1))

    def test_draws_curves_titles_and_images(self):
        figure = plot.label_trajectories(
            self.times, self.probabilities, images=self.images, labels=np.array([0, 1, 2]), class_names=list("abcd")
        )
        assert len(figure.axes) == 3
        for example, ax in enumerate(figure.axes):
            drawn = np.stack([line.get_ydata() for line in ax.lines], axis=-1)
            np.testing.assert_array_equal(drawn, self.probabilities[example])
            predicted = "abcd"[self.probabilities[example, -1].argmax()]
            assert ax.get_title() == f"predicted {predicted}, true {'abc'[example]}"
            picture = ax.artists[0].offsetbox.get_data()
            np.testing.assert_array_equal(picture[..., :1], self.images[example])

    def test_draws_without_images(self):
        figure = plot.label_trajectories(jnp.asarray(self.times), jnp.asarray(self.probabilities))
        assert not figure.axes[0].artists

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(TypeError, match="probabilities"):
            plot.label_trajectories(self.times[:-1], self.probabilities)
        with pytest.raises(TypeError, match="images"):
            plot.label_trajectories(self.times, self.probabilities, images=self.images[:2])
        with pytest.raises(ValueError, match="`class_names` has 3 names where 4 are needed"):
            plot.label_trajectories(self.times, self.probabilities, class_names=list("abc"))
        with pytest.raises(ValueError, match="`labels` holds classes from 0 to 4"):
            plot.label_trajectories(self.times, self.probabilities, labels=np.array([0, 4, 1]))
        with pytest.raises(ValueError, match="`probabilities` is empty"):
            plot.label_trajectories(self.times, self.probabilities[:0])
        with pytest.raises(ValueError, match="`columns` is 0"):
            plot.label_trajectories(self.times, self.probabilities, columns=0)


class TestLearningCurve:
    step = np.arange(1, 1001)
    loss = np.exp(-step / 200) + 0.1

    def test_draws_loss_and_running_median(self):
        loss = self.loss.copy()
        loss[500] = 1e6
        (ax,) = plot.learning_curve({"step": self.step, "loss": jnp.asarray(loss)}, window=21).axes
        raw, median = ax.lines
        np.testing.assert_allclose(raw.get_ydata(), loss, rtol=1e-6)
        at = np.searchsorted(self.step, median.get_xdata())
        inner = (at >= 10) & (at < 980) & (abs(at - 500) > 10)
        np.testing.assert_allclose(median.get_ydata()[inner], self.loss[at][inner], rtol=1e-6)
        assert median.get_ydata().max() < 2
        assert ax.get_yscale() == "log"

    def test_axis_is_linear_if_a_loss_is_not_positive(self):
        (ax,) = plot.learning_curve({"step": self.step, "loss": self.loss - 0.5}).axes
        assert ax.get_yscale() == "linear"

    def test_each_metric_has_a_panel_and_its_own_steps(self):
        history = {
            "step": self.step,
            "loss": self.loss,
            "evaluation_step": np.array([500, 1000]),
            "accuracy": np.array([0.5, 0.9]),
            "learning_rate": np.linspace(1, 0, 1000),
            # `fp.fit_posterior` adds a number that has no steps.
            "num_dropped": np.asarray(3),
        }
        loss, accuracy, rate = plot.learning_curve(history).axes
        np.testing.assert_array_equal(accuracy.lines[0].get_xydata(), [[500, 0.5], [1000, 0.9]])
        np.testing.assert_array_equal(rate.lines[0].get_xdata(), self.step)
        assert [ax.get_ylabel() for ax in (loss, accuracy, rate)] == ["loss", "accuracy", "learning rate"]
        assert [ax.get_xlabel() for ax in (loss, accuracy, rate)] == ["", "", "step"]
        assert loss.get_xlim() == accuracy.get_xlim() == (0, 1000)

    def test_loss_with_nan_is_drawn(self, tmp_path):
        loss = np.where(self.step < 500, self.loss, np.nan)
        plot.save(plot.learning_curve({"step": self.step, "loss": loss}), tmp_path / "curve.png")

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(ValueError, match="`history` lacks 'loss'"):
            plot.learning_curve({"step": self.step})
        with pytest.raises(ValueError, match="`history` has no steps for 'accuracy'"):
            plot.learning_curve({"step": self.step, "loss": self.loss, "accuracy": np.zeros(3)})
        with pytest.raises(ValueError, match="`window` is 0"):
            plot.learning_curve({"step": self.step, "loss": self.loss}, window=0)


class TestConfusionMatrix:
    labels = np.repeat([0, 0, 0, 1, 1, 1, 2, 2, 2], MATRIX.ravel())
    predictions = np.repeat([0, 1, 2] * 3, MATRIX.ravel())

    def test_draws_counts_colours_and_accuracy(self):
        ax = plot.confusion_matrix(jnp.asarray(self.labels, jnp.uint8), self.predictions, class_names=list("abc"))
        written = {
            (int(text.get_position()[1]), int(text.get_position()[0])): int(text.get_text()) for text in ax.texts
        }
        assert written == {tuple(cell): MATRIX[tuple(cell)] for cell in np.argwhere(MATRIX).tolist()}
        shares = image_of(ax)
        np.testing.assert_allclose(shares[[0, 1, 2], [1, 2, 0]], [25, 50, 20])
        assert np.isnan(np.diagonal(shares)).all()
        assert ax.get_title() == "accuracy 69.23 % (n = 13)"
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
        assert ax.child_axes[0].get_ylabel() == "errors (% of the true class)"
        assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]

    def test_draws_without_errors_and_with_absent_classes(self, tmp_path):
        ax = plot.confusion_matrix(np.array([1, 1]), np.array([1, 1]), num_classes=30)
        assert ax.get_title() == "accuracy 100.00 % (n = 2)"
        assert image_of(ax).shape == (30, 30)
        plot.save(ax, tmp_path / "matrix.png")

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(TypeError, match="predictions"):
            plot.confusion_matrix(self.labels, self.predictions[1:])
        with pytest.raises(ValueError, match="`labels` is empty"):
            plot.confusion_matrix(np.zeros(0, int), np.zeros(0, int))
        with pytest.raises(ValueError, match="`predictions` holds classes from -1"):
            plot.confusion_matrix(np.array([0, 1]), np.array([0, -1]))
        with pytest.raises(ValueError, match="`labels` holds classes from 0 to 2 where 0 to 1 are needed"):
            plot.confusion_matrix(self.labels, self.predictions, num_classes=2)


class TestSolverSweep:
    def test_draws_one_sorted_line_for_each_solver(self):
        records = [
            {"solver": "Heun", "steps": 5, "function_evaluations": 10, "accuracy": 0.99},
            {"solver": "Euler", "steps": 1, "function_evaluations": 1, "accuracy": 0.9},
            {"solver": "Heun", "steps": 1, "function_evaluations": 2, "accuracy": 0.95},
        ]
        ax = plot.solver_sweep(records, reference=0.992)
        reference, heun, euler = ax.lines
        np.testing.assert_allclose(heun.get_xydata(), [[2, 95.0], [10, 99.0]])
        np.testing.assert_allclose(euler.get_xydata(), [[1, 90.0]])
        np.testing.assert_allclose(reference.get_ydata(), 99.2)
        assert ax.get_xscale() == "log"
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == ["ordinary classifier", "Heun", "Euler"]

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(ValueError, match="`records` is empty"):
            plot.solver_sweep([])
        with pytest.raises(ValueError, match=r"`records` holds .* which lacks 'accuracy'"):
            plot.solver_sweep([{"solver": "Euler", "function_evaluations": 1}])


class TestErrorAgainstCost:
    def test_draws_a_line_for_each_method_on_logarithmic_axes(self):
        ax = plot.error_against_cost(
            {"a": ([6, 12], [1.0, 0.1]), "b": np.array([[6, 24], [2.0, 0.5]])}, cost="products"
        )
        np.testing.assert_allclose(ax.lines[0].get_xydata(), [[6, 1.0], [12, 0.1]])
        np.testing.assert_allclose(ax.lines[1].get_xydata(), [[6, 2.0], [24, 0.5]])
        assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("log", "log", "products")
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(ValueError, match="`curves` is empty"):
            plot.error_against_cost({})
        with pytest.raises(ValueError, match="`curves` has for 'a' arrays of shapes"):
            plot.error_against_cost({"a": ([1, 2], [1.0])})


class TestAccuracyAgainstTime:
    def test_draws_a_line_for_each_method_in_per_cent(self):
        curves = {"CT": [(10.0, 0.9), (20.0, 0.95)], "FM": np.array([[5.0, 0.91], [50.0, 0.99]])}
        ax = plot.accuracy_against_time(curves, from_accuracy=0.9)
        for line, curve in zip(ax.lines, curves.values(), strict=True):
            np.testing.assert_allclose(line.get_xydata(), np.asarray(curve) * [1, 100])
        low, high = ax.get_ylim()
        assert 88 < low < 90
        assert 99 < high < 101
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["CT", "FM"]

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(ValueError, match="`curves` is empty"):
            plot.accuracy_against_time({})
        with pytest.raises(ValueError, match=r"`curves` has for 'FM' an array of shape \(2,\)"):
            plot.accuracy_against_time({"FM": [1.0, 2.0]})


class TestImageGrid:
    def test_images_are_drawn_row_by_row(self):
        images = np.random.default_rng(4).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
        ax = plot.image_grid(images, columns=3, titles=list("abcde"))
        drawn = np.stack([np.asarray(image.get_array()) for image in ax.images])
        np.testing.assert_allclose(drawn, images / 255)
        left, right, bottom, top = np.transpose([image.get_extent() for image in ax.images])
        np.testing.assert_allclose(left[:3], left[[3, 4, 0]] + [0, 0, left[2]])
        assert left[0] < left[1] < left[2]
        assert bottom[0] > top[3]
        np.testing.assert_allclose((top - bottom) / (right - left), 4 / 6)
        assert [text.get_text() for text in ax.texts] == list("abcde")

    @pytest.mark.parametrize("shape", [(3, 4, 4), (3, 4, 4, 1)])
    def test_grey_images_are_drawn_in_grey(self, shape):
        images = jnp.linspace(0, 1, 48).reshape(shape)
        drawn = np.stack([np.asarray(image.get_array()) for image in plot.image_grid(images).images])
        np.testing.assert_array_equal(drawn[..., 0], np.reshape(images, (3, 4, 4)))
        np.testing.assert_array_equal(drawn[..., 0], drawn[..., 2])

    def test_errors_name_wrong_arguments(self):
        with pytest.raises(ValueError, match=r"`images` has shape \(2, 4, 4, 2\)"):
            plot.image_grid(np.zeros((2, 4, 4, 2)))
        with pytest.raises(ValueError, match="`images` holds values from -1 to 1"):
            plot.image_grid(np.linspace(-1, 1, 32).reshape(2, 4, 4))
        with pytest.raises(ValueError, match="`images` holds values from nan to nan"):
            plot.image_grid(np.full((2, 4, 4), np.nan))
        with pytest.raises(TypeError, match="images"):
            plot.image_grid(np.zeros((2, 4, 4), np.int32))
        with pytest.raises(ValueError, match="`titles` has 1 texts where 2 are needed"):
            plot.image_grid(np.zeros((2, 4, 4)), titles=["one"])
        with pytest.raises(ValueError, match="`columns` is 0"):
            plot.image_grid(np.zeros((2, 4, 4)), columns=0)


class TestSave:
    def test_writes_the_whole_figure_to_a_new_folder(self, tmp_path):
        path = tmp_path / "new" / "figure.png"
        part = Figure(figsize=(4, 2)).subfigures(1, 2)[0]
        plot.save(plot.image_grid(np.zeros((1, 4, 4)), ax=part.subplots()), path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert [kept.name for kept in path.parent.iterdir()] == ["figure.png"]

    def test_failure_keeps_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "figure.pdf"
        path.write_text("old")

        def fails(self, file, **options):
            file.write_text("half")
            raise OSError("disk full")

        monkeypatch.setattr(Figure, "savefig", fails)
        with pytest.raises(OSError, match="disk full"):
            plot.save(Figure(), path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_error_names_an_unknown_format(self, tmp_path):
        with pytest.raises(ValueError, match=r"`path` is '.*figure.doc'; it must end in one of .*\.png"):
            plot.save(Figure(), tmp_path / "figure.doc")


def test_error_without_matplotlib_names_the_extra_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("flowprop.plot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "flowprop\[plot\]"'):
        importlib.import_module("flowprop.plot")
