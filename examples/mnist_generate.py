"""Images of handwritten digits, drawn given their class.

This example trains a flow from noise to images, given the class. In training it drops the class of some images, so that
the same network also learns images without a class. The images are then drawn with classifier-free guidance
(https://arxiv.org/abs/2207.12598), at several guidance scales. A classifier that is trained on real images judges them:

- how many of the drawn digits it recognises as the class that was asked for;
- how far the drawn digits are from real ones, in the features of the classifier. A larger guidance scale gives clearer
  digits with less variety.

    python examples/mnist_generate.py                           # digits of 8 x 8 pixels, no download: half a minute
    python examples/mnist_generate.py --long
    python examples/mnist_generate.py --dataset mnist           # downloads MNIST, unless FLOWPROP_DATA names its folder
    python examples/mnist_generate.py --dataset mnist --long    # half an hour

With flowprop installed, `flowprop-mnist-generate` is the same command.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure

import flowprop as fp


@dataclass
class Config:
    """Train a flow of images given their class, and judge the images that it draws.

    The default run takes about half a minute on two cores and downloads nothing. Options that show None take their
    value from the chosen run; see PRESETS in the file.
    """

    dataset: Literal["digits", "mnist"] = "digits"
    """digits: 1797 images of 8 x 8 pixels from scikit-learn. mnist: 70000 images of 28 x 28 pixels."""
    long: bool = False
    """Train a larger network for more steps."""
    patch_size: int | None = None
    """Pixels along each side of a patch."""
    width: int | None = None
    """Channels of each patch."""
    depth: int | None = None
    """Blocks of the network."""
    steps: int | None = None
    """Training steps of the flow."""
    judge_epochs: int | None = None
    """Epochs of training of the classifier that judges the images."""
    batch_size: int = 128
    """Images in one training step."""
    learning_rate: float = 2e-2
    """The largest learning rate of Muon: after a short warm-up, and before a cosine decay to zero."""
    ema: float = 0.998
    """Decay of the moving average of the parameters."""
    drop_rate: float = 0.1
    """The fraction of images whose class is dropped in training."""
    guidance: float = 2.0
    """Guidance scale of the images in the figure. 1 means no guidance."""
    scales: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)
    """The guidance scales to compare."""
    num_samples: int = 1000
    """Number of images for each scale, the same number for each class."""
    solver_steps: int = 15
    """Steps of Heun's method for each image."""
    bits_images: int = 100
    """Number of test images whose log-likelihood is computed, in bits per dimension."""
    seed: int = 0
    """Seed of all random numbers."""
    output: Path | None = None
    """Folder of the figures and of results.json. Default: results/mnist_generate/DATASET, long: .../DATASET_long."""


PRESETS: dict[tuple[str, bool], dict[str, int]] = {
    ("mnist", False): {"patch_size": 4, "width": 64, "depth": 8, "steps": 1_500, "judge_epochs": 3},
    ("mnist", True): {"patch_size": 4, "width": 64, "depth": 8, "steps": 6_000, "judge_epochs": 8},
    ("digits", False): {"patch_size": 2, "width": 32, "depth": 4, "steps": 1_500, "judge_epochs": 40},
    ("digits", True): {"patch_size": 2, "width": 64, "depth": 8, "steps": 6_000, "judge_epochs": 80},
}
#: How long each run takes on two cores.
DURATIONS = {
    ("mnist", False): "about eight minutes",
    ("mnist", True): "about half an hour",
    ("digits", False): "about half a minute",
    ("digits", True): "about ten minutes",
}
NO_CLASS = np.zeros(10, np.float32)


class ImageFlow(eqx.Module):
    """The model to train. It converts images and labels to points and conditions, and drops some conditions."""

    dropout: fp.ConditionDropout
    protocol: fp.BitsPerDimension

    def loss(self, images, labels, *, key):
        key_noise, key_loss = jax.random.split(key)
        points = self.protocol.preprocess(images, key=key_noise)
        return self.dropout.loss(points, jax.nn.one_hot(labels, 10), key=key_loss)


def make_flow(config: Config, images, key) -> ImageFlow:
    shape = images.shape[1:]
    network = fp.nn.ImageMixer(
        shape, condition_size=10, patch_size=config.patch_size, width=config.width, depth=config.depth, key=key
    )
    protocol = fp.BitsPerDimension(
        f"{config.dataset} test",
        centre=float(images.mean()) + 0.5,
        scale=float(images.std()),
        divergence=fp.HutchinsonDivergence(),
        integrator=fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-3, atol=1e-3)),
    )
    return ImageFlow(fp.ConditionDropout(fp.fm_flow(network, shape=shape), NO_CLASS, config.drop_rate), protocol)


def make_judge(shape, key) -> fp.Classifier:
    """A flow of labels, as in `mnist.py`."""
    key_encoder, key_network = jax.random.split(key)
    encoder = fp.nn.ConvEncoder(shape, 128, channels=(16, 32), key=key_encoder)
    network = fp.nn.MLP((10,), condition_size=128, width=256, depth=2, key=key_network)
    flow = fp.Flow(network, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(10,))
    return fp.Classifier(encoder=encoder, flow=flow, embedding=fp.one_hot_embedding(10))


def train(config: Config, model, data, optimiser, learning_rate, steps, key):
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, steps)
    began = time.perf_counter()
    model, history = fp.fit(
        model, data, optimiser(rate), steps=steps, batch_size=config.batch_size, key=key, ema=config.ema
    )
    return model, history, time.perf_counter() - began


def draw(config: Config, model: ImageFlow, scale, labels, key):
    """Images of given classes, and the function evaluations of one image. Each one calls the network twice."""
    integrator = fp.ODEIntegrator(dfx.Heun(), dt0=1 / config.solver_steps)
    guided = fp.guide(model.dropout.flow, NO_CLASS, scale)
    x = jax.nn.one_hot(labels, 10)
    points = fp.sample(guided, len(labels), x, key=key, integrator=integrator)
    solution = fp.solve(guided, guided.draw_noise(key=key), x[0], integrator=integrator)
    return np.asarray(model.protocol.to_images(points)), int(fp.function_evaluations(solution, integrator))


@eqx.filter_jit
def features(judge, images):
    return jax.lax.map(judge.encoder, jnp.asarray(images), batch_size=500)


def balanced(images, labels, size):
    """The first images of each class, class by class."""
    return np.concatenate([images[labels == label][: size // 10] for label in range(10)])


def compare_scales(config: Config, model, judge, real, key):
    """A record and the images for each guidance scale, sorted by class. All scales start from the same noise."""
    labels = np.repeat(np.arange(10), config.num_samples // 10)
    key_draw, key_judge = jax.random.split(key)
    records, images = [], {}
    for scale in sorted({*config.scales, config.guidance}):
        began = time.perf_counter()
        images[scale], evaluations = draw(config, model, scale, labels, key_draw)
        seconds = time.perf_counter() - began
        seen = np.asarray(judge.predict(images[scale], key=key_judge)).reshape(10, -1)
        distance = fp.metrics.sliced_wasserstein(features(judge, images[scale]), features(judge, real), key=key_judge)
        record = {
            "scale": scale,
            "accuracy": float((seen == np.arange(10)[:, None]).mean()),
            "class_accuracy": (seen == np.arange(10)[:, None]).mean(axis=1).tolist(),
            "class_counts": np.bincount(seen.ravel(), minlength=10).tolist(),
            "distance": float(distance),
            "function_evaluations": evaluations,
            "seconds": seconds,
        }
        print(
            f"guidance {scale:3.1f}: {100 * record['accuracy']:5.1f} % of the class asked for, "
            f"distance {record['distance']:.3f}, {evaluations} evaluations, {seconds:.0f} seconds",
            flush=True,
        )
        records.append(record)
    return records, images


def measure_bits(config: Config, model: ImageFlow, images, labels, key):
    """Bits per dimension of images, with and without their class."""
    images, labels = images[: config.bits_images], labels[: config.bits_images]
    given = jax.nn.one_hot(labels, 10)
    records = []
    for name, x in (("class", given), ("none", jnp.broadcast_to(NO_CLASS, given.shape))):
        result = model.protocol(model.dropout.flow, images, x, key=key)
        print(f"given {name}: {result}", flush=True)
        records.append(
            {
                "condition": name,
                "bits_per_dim": float(result.mean_bits_per_dim),
                "standard_error": float(result.standard_error_bits_per_dim),
                "images": len(images),
                "protocol": str(model.protocol),
            }
        )
    return records


def guidance_figure(records, real_distance):
    """Accuracy and distance to real digits, against the guidance scale."""
    scales = [record["scale"] for record in records]
    figure = Figure(figsize=(8.4, 3.2), layout="compressed")
    left, right = figure.subplots(1, 2)
    left.plot(scales, [100 * record["accuracy"] for record in records], marker="o")
    left.set(xlabel="guidance scale", ylabel="digits of the class asked for (%)")
    right.plot(scales, [record["distance"] for record in records], marker="o", label="drawn digits")
    right.axhline(real_distance, color="0.6", linestyle="--", label="other real digits")
    right.set(xlabel="guidance scale", ylabel="distance to real digits", ylim=(0, None))
    right.legend(frameon=False)
    return figure


def main() -> None:
    config = tyro.cli(Config)
    hint = "" if config.long else "; use --long for a larger network"
    print(f"This run takes {DURATIONS[config.dataset, config.long]} on two cores{hint}.", flush=True)
    preset = PRESETS[config.dataset, config.long]
    config = replace(config, **{name: value for name, value in preset.items() if getattr(config, name) is None})
    output = config.output or Path("results", "mnist_generate", config.dataset + "_long" * config.long)
    output.mkdir(parents=True, exist_ok=True)
    images, labels, test_images, test_labels = fp.data.mnist() if config.dataset == "mnist" else fp.data.digits()
    keys = iter(jax.random.split(jax.random.key(config.seed), 7))

    print("the classifier of real images, which judges the drawn ones")
    judge_steps = config.judge_epochs * (len(images) // config.batch_size)
    judge = make_judge(images.shape[1:], next(keys))
    judge, _, judge_seconds = train(config, judge, (images, labels), optax.adamw, 2e-3, judge_steps, next(keys))
    judge_accuracy = float((judge.predict(test_images, key=next(keys)) == test_labels).mean())
    print(f"test accuracy {judge_accuracy:.4f}\nthe flow of images")
    model = make_flow(config, images, next(keys))
    model, history, seconds = train(
        config, model, (images, labels), optax.contrib.muon, config.learning_rate, config.steps, next(keys)
    )

    fp.plot.save(fp.plot.learning_curve(history), output / "learning_curve.png")
    print(f"saved {output / 'learning_curve.png'}")

    key_draw, key_bits = jax.random.split(next(keys))
    real = balanced(images, labels, config.num_samples)
    other = features(judge, balanced(test_images, test_labels, config.num_samples))
    real_distance = float(fp.metrics.sliced_wasserstein(other, features(judge, real), key=key_draw))
    records, drawn = compare_scales(config, model, judge, real, key_draw)
    results = {
        "dataset": config.dataset,
        "judge": {"accuracy": judge_accuracy, "seconds": judge_seconds},
        "training": {"steps": config.steps, "seconds": seconds},
        "real_distance": real_distance,
        "guidance": records,
        "bits_per_dim": measure_bits(config, model, test_images, test_labels, key_bits),
    }
    (output / "results.json").write_text(json.dumps(results, indent=2))
    fp.save(output / "flow.flowprop", model.dropout.flow)
    # Each row is a class. In the second figure each row is a guidance scale, and each column starts from one noise.
    chosen = drawn[config.guidance].reshape(10, -1, *images.shape[1:])
    alike = np.stack([drawn[scale].reshape(10, -1, *images.shape[1:])[:, 0] for scale in sorted(drawn)])
    figures = {
        "digits": fp.plot.image_grid(chosen[:, :10].reshape(-1, *images.shape[1:]), columns=10),
        "scales": fp.plot.image_grid(alike.reshape(-1, *images.shape[1:]), columns=10),
        "guidance": guidance_figure(records, real_distance),
    }
    for name, figure in figures.items():
        fp.plot.save(figure, output / f"{name}.png")
    best = next(record for record in records if record["scale"] == config.guidance)
    print(
        f"\n{config.dataset}: of {config.num_samples} digits drawn with guidance scale {config.guidance}, "
        f"{100 * best['accuracy']:.1f} % are of the class asked for. "
        f"The classifier that judges them has test accuracy {judge_accuracy:.4f}."
        f"\n    class by class: {', '.join(f'{100 * accuracy:.0f}' for accuracy in best['class_accuracy'])} %"
        f"\n    digits recognised as each class: {', '.join(map(str, best['class_counts']))}"
        f"\n    {seconds:.0f} seconds of training of the flow, {judge_seconds:.0f} of the classifier"
        f"\nThe figures and results.json are in {output}"
    )


if __name__ == "__main__":
    main()
