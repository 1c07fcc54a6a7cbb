"""The picture of README: the true density of two moons, the density of a flow trained on it, and its samples.

The flow is trained by `fp.fit_density`, the recommended recipe, on 100,000 points. The script prints the mean
log-likelihood of 10,000 new points under the flow and under the true density, and saves the picture.

    python examples/readme_picture.py docs/figures/two_moons.png    # about five minutes on two cores
"""

import argparse
from pathlib import Path

import jax

import flowprop as fp


BOUNDS = ((-1.8, 2.8), (-1.3, 1.8))


def draw(path: Path, *, steps: int) -> None:
    """Train the flow, print its mean log-likelihood, and save its picture."""
    keys = jax.random.split(jax.random.key(0), 5)
    points, _ = fp.data.two_moons(100_000, key=keys[0])
    new_points, _ = fp.data.two_moons(10_000, key=keys[1])
    network = fp.nn.MLP(shape=(2,), key=keys[2])
    flow, _ = fp.fit_density(network, points, steps=steps, ema=0.999, key=keys[3])

    moons = fp.data.TwoMoons()
    print(f"flow {fp.log_prob(flow, new_points).mean():.4f} nats per point")
    print(f"true density {moons.log_prob(new_points).mean():.4f} nats per point")
    samples = fp.sample(flow, 2_000, key=keys[4])
    figure = fp.plot.density_and_samples(
        lambda points: fp.log_prob(flow, points), samples, BOUNDS, true_log_prob=moons.log_prob, resolution=200
    )
    fp.plot.save(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the file of the picture")
    parser.add_argument("--steps", type=int, default=16_000, help="training steps, fewer for a trial")
    arguments = parser.parse_args()
    draw(arguments.path, steps=arguments.steps)
