"""Handwritten digits classified by a flow: from a noisy label to a clean one, given the image.

This example trains a classifier by flow matching or by continuous-time diffusion. After every epoch it measures the
accuracy on images that are held out of training. On the test images it then tries several solvers and numbers of steps.
Two references are printed next to the result:

- the accuracy after one evaluation of the network at t = 0, where the label is pure noise;
- the accuracy of the same network, trained by back-propagation as an ordinary classifier for as many epochs.

    python examples/mnist.py                           # digits of 8 x 8 pixels, no download: half a minute
    python examples/mnist.py --protocol ct
    python examples/mnist.py --dataset mnist           # downloads MNIST, unless FLOWPROP_DATA names its folder
    python examples/mnist.py --dataset mnist --long    # the numbers on the results page: fifteen minutes

With flowprop installed, `flowprop-mnist` is the same command.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import flowprop as fp


@dataclass
class Config:
    """Classify handwritten digits by a flow of labels.

    The default run takes about half a minute on two cores and downloads nothing.
    """

    protocol: Literal["fm", "ct"] = "fm"
    """fm: flow matching. ct: continuous-time diffusion. Both predict a distribution over classes."""
    dataset: Literal["digits", "mnist"] = "digits"
    """digits: 1797 images of 8 x 8 pixels from scikit-learn. mnist: 70000 images of 28 x 28 pixels."""
    long: bool = False
    """Train for more epochs, for the numbers on the results page."""
    epochs: int | None = None
    """Passes over the training images. Default: 40 for digits, 2 for mnist; long: 80 and 8."""
    batch_size: int = 128
    """Images in one training step."""
    learning_rate: float = 2e-3
    """The largest learning rate: after a short warm-up, and before a cosine decay to zero."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    ema: float = 0.999
    """Decay of the moving average of the parameters."""
    features: int = 128
    """Number of features that the encoder computes from an image."""
    seed: int = 0
    """Seed of all random numbers."""
    output: Path | None = None
    """Folder of the figures and of results.json. Default: results/DATASET/PROTOCOL, long: DATASET_long/PROTOCOL."""


#: Epochs, and how long the run takes on two cores.
PRESETS = {
    ("digits", False): (40, "about half a minute"),
    ("digits", True): (80, "about one minute"),
    ("mnist", False): (2, "about five minutes"),
    ("mnist", True): (8, "about fifteen minutes"),
}


class OrdinaryClassifier(eqx.Module):
    """The same encoder and network, trained to predict the class directly. The network sees no label."""

    encoder: fp.nn.ConvEncoder
    network: fp.nn.MLP

    def logits(self, image):
        return self.network(0.0, jnp.zeros(self.network.shape), self.encoder(image))

    def loss(self, images, labels, *, key):
        logits = jax.vmap(self.logits)(images)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @eqx.filter_jit
    def predict(self, images):
        return jax.lax.map(lambda image: self.logits(image).argmax(), images, batch_size=1000)


def load(config: Config):
    """Training, validation and test images with their labels."""
    images, labels, test_images, test_labels = fp.data.mnist() if config.dataset == "mnist" else fp.data.digits()
    order = np.random.default_rng(config.seed).permutation(len(images))
    held_out, rest = np.split(order, [len(order) // 12])
    return (images[rest], labels[rest]), (images[held_out], labels[held_out]), (test_images, test_labels)


def make_networks(config: Config, shape, key):
    key_encoder, key_network = jax.random.split(key)
    encoder = fp.nn.ConvEncoder(shape, config.features, channels=(16, 32), key=key_encoder)
    network = fp.nn.MLP((10,), condition_size=config.features, width=256, depth=2, key=key_network)
    return encoder, network


def make_classifier(config: Config, shape, key) -> fp.Classifier:
    encoder, network = make_networks(config, shape, key)
    path = fp.CondOTPath() if config.protocol == "fm" else fp.VPPath(fp.SigmoidNoiseSchedule(10.0))
    flow = fp.Flow(network, path, fp.CategoricalPrediction(), shape=(10,))
    return fp.Classifier(encoder=encoder, flow=flow, embedding=fp.one_hot_embedding(10))


def train(config: Config, model, data, evaluate, epochs, key):
    epoch = len(data[0]) // config.batch_size
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, epoch // 2, epochs * epoch)
    optimiser = optax.adamw(rate, weight_decay=config.weight_decay)
    began = time.perf_counter()
    model, history = fp.fit(
        model,
        data,
        optimiser,
        steps=epochs * epoch,
        batch_size=config.batch_size,
        key=key,
        ema=config.ema,
        evaluate=evaluate,
        evaluate_every=epoch,
    )
    return model, history, time.perf_counter() - began


def start_labels(classifier, keys):
    return jax.vmap(lambda key: jax.random.normal(key, classifier.flow.shape))(keys)


def mean_evaluations(classifier, images, integrator, key):
    """Mean number of network evaluations in one solve, including the last one, of the target."""
    return classifier.function_evaluations(images, key=key, integrator=integrator).mean()


@eqx.filter_jit
def first_estimate(classifier, images, key):
    """Class probabilities after one evaluation at t = 0. The label is noise there: only the image has information."""

    def one(image_and_key):
        image, key = image_and_key
        z = jax.random.normal(key, classifier.flow.shape)
        return classifier.flow.target(0.0, z, classifier.condition(image))

    return jax.lax.map(one, (images, jax.random.split(key, len(images))), batch_size=1000)


@eqx.filter_jit
def estimates(classifier, images, times, key):
    """The estimated clean label along the flow. With one-hot embeddings it is a distribution over classes."""

    def one(image, z):
        condition = classifier.condition(image)
        path = fp.solve(classifier.flow, z, condition, saveat=dfx.SaveAt(ts=times)).ys
        return jax.vmap(lambda t, z: classifier.flow.target(t, z, condition))(times, path)

    return jax.vmap(one)(images, start_labels(classifier, jax.random.split(key, len(images))))


def sweep(classifier, images, labels, key):
    """Accuracy and number of evaluations, for each solver and number of steps."""
    runs = [
        (name, steps, fp.ODEIntegrator(solver, dt0=1 / steps))
        for name, solver in (("Euler", dfx.Euler()), ("Heun", dfx.Heun()))
        for steps in (1, 2, 5, 10, 20, 40)
    ]
    adaptive = fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-3, atol=1e-3))
    records = []
    for name, steps, integrator in [*runs, ("Tsit5, adaptive", None, adaptive)]:
        accuracy = float((classifier.predict(images, key=key, integrator=integrator) == labels).mean())
        evaluations = float(mean_evaluations(classifier, images[:500], integrator, key))
        records.append({"solver": name, "steps": steps, "function_evaluations": evaluations, "accuracy": accuracy})
        steps_text = "" if steps is None else f"{steps} steps"
        print(f"{name:>16} {steps_text:>8}  {evaluations:6.1f} evaluations  accuracy {accuracy:.4f}", flush=True)
    return records


def main() -> None:
    config = tyro.cli(Config)
    epochs, duration = PRESETS[config.dataset, config.long]
    epochs = config.epochs or epochs
    hint = "" if config.long else "; use --long for the numbers on the results page"
    print(f"This run takes {duration} on two cores{hint}.", flush=True)
    output = config.output or Path("results", config.dataset + "_long" * config.long, config.protocol)
    output.mkdir(parents=True, exist_ok=True)
    training, (val_images, val_labels), (test_images, test_labels) = load(config)
    key_model, key_train, key_test = jax.random.split(jax.random.key(config.seed), 3)
    shape = training[0].shape[1:]

    def val_accuracy(model):
        return {"accuracy": float((model.predict(val_images, key=key_test) == val_labels).mean())}

    print(f"{config.protocol}: a flow of labels, {epochs} epochs")
    model = make_classifier(config, shape, key_model)
    classifier, history, seconds = train(config, model, training, val_accuracy, epochs, key_train)
    fp.plot.save(fp.plot.learning_curve(history), output / "learning_curve.png")
    print(f"saved {output / 'learning_curve.png'}")

    print("the same network, trained as an ordinary classifier")
    reference, _, _ = train(
        config, OrdinaryClassifier(*make_networks(config, shape, key_model)), training, None, epochs, key_train
    )
    reference_accuracy = float((reference.predict(test_images) == test_labels).mean())

    default = fp.ODEIntegrator(dfx.Euler(), dt0=0.1)
    predictions = classifier.predict(test_images, key=key_test, integrator=default)
    estimate = first_estimate(classifier, test_images, key_test)
    results = {
        "protocol": config.protocol,
        "accuracy": float((predictions == test_labels).mean()),
        "reference_accuracy": reference_accuracy,
        "one_evaluation_accuracy": float((estimate.argmax(axis=-1) == test_labels).mean()),
        "function_evaluations": float(mean_evaluations(classifier, test_images[:500], default, key_test)),
        "seconds": seconds,
        "sweep": sweep(classifier, test_images, test_labels, key_test),
    }
    (output / "results.json").write_text(json.dumps(results, indent=2))
    fp.save(output / "classifier.flowprop", classifier)

    # Of the images with the least certain label, since the others have nearly the same trajectory.
    unsure = np.argsort(np.asarray(estimate.max(axis=-1)))[:6]
    times = jnp.linspace(0.0, classifier.flow.span[1], 40)
    paths = estimates(classifier, test_images[unsure], times, key_test)
    figures = {
        "confusion_matrix": fp.plot.confusion_matrix(test_labels, predictions),
        "solver_sweep": fp.plot.solver_sweep(results["sweep"], reference=reference_accuracy),
        "label_trajectories": fp.plot.label_trajectories(
            times, paths, images=test_images[unsure], labels=test_labels[unsure]
        ),
    }
    for name, figure in figures.items():
        fp.plot.save(figure, output / f"{name}.png")

    print(
        f"\n{config.protocol} on {config.dataset}: test accuracy {results['accuracy']:.4f} "
        f"with {results['function_evaluations']:.0f} network evaluations for each image, "
        f"after {seconds:.0f} seconds of training"
        f"\n    after one evaluation at t = 0, where the label is noise: {results['one_evaluation_accuracy']:.4f}"
        f"\n    the same network, trained as an ordinary classifier: {reference_accuracy:.4f}"
        f"\nThe figures and results.json are in {output}"
    )


if __name__ == "__main__":
    main()
