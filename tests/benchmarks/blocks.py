"""What T blocks of NoProp-DT cost over one block, and beside back-propagation through them: run on request.

    python tests/benchmarks/blocks.py

prints the time of a gradient of all blocks over that of T gradients of one block, and of back-propagation through all,
in interleaved rounds of one process; and the bytes that each program sets aside while it runs.
"""

import argparse
import os
import platform
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowprop as fp


def make_blocks(num_blocks: int, key, keep_activations: bool = False) -> fp.NoPropDT:
    keys = jax.random.split(key, (2, num_blocks))
    return fp.NoPropDT(
        [fp.nn.MLP((10,), condition_size=128, width=256, depth=2, key=k) for k in keys[0]],
        embedding=fp.one_hot_embedding(10),
        encoder=[fp.nn.ConvEncoder((28, 28, 1), 128, channels=(16, 32), key=k) for k in keys[1]],
        keep_activations=keep_activations,
    )


def gradient_of(model, batch, key):
    """A function that runs the compiled gradient of a model's loss, and the bytes that it needs for that."""
    parameters, rest = eqx.partition(model, fp.trainable(model))

    def loss(parameters, batch, key):
        return eqx.combine(parameters, rest).loss(*batch, key=key)

    compiled = jax.jit(jax.grad(loss)).lower(parameters, batch, key).compile()
    return lambda: jax.block_until_ready(
        compiled(parameters, batch, key)
    ), compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    key, num_blocks = jax.random.key(0), arguments.blocks
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.integers(0, 256, (arguments.batch, 28, 28, 1)), jnp.uint8)
    batch = (images, jnp.asarray(draw.integers(0, 10, arguments.batch)))
    blocks = make_blocks(num_blocks, key)
    programs = {
        f"{num_blocks} gradients of one block": gradient_of(blocks.block(0), batch, key),
        "all blocks at once": gradient_of(blocks, batch, key),
        "the same, all activations kept": gradient_of(make_blocks(num_blocks, key, True), batch, key),
        "back-propagation through all": gradient_of(fp.BackpropClassifier(blocks), batch, key),
    }
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}")

    def timed(function, repeats):
        began = time.perf_counter()
        for _ in range(repeats):
            function()
        return time.perf_counter() - began

    repeats = [num_blocks] + [1] * (len(programs) - 1)
    times = np.array(
        [
            [timed(function, count) for (function, _), count in zip(programs.values(), repeats, strict=True)]
            for _ in range(arguments.rounds + 1)
        ]
    )[1:]
    for index, (name, (_, memory)) in enumerate(programs.items()):
        low, median, high = np.percentile(times[:, index] / times[:, 0], [25, 50, 75])
        milliseconds = 1e3 * np.median(times[:, index])
        print(f"{name:<36} {median:5.2f} [{low:.2f}, {high:.2f}]   {milliseconds:8.1f} ms   {memory / 1e6:8.1f} MB")


if __name__ == "__main__":
    main()
