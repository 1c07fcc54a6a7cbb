"""A learning rate that warms up and then falls."""

import optax

from .._types import Real, check_number, check_positive, checked


@checked
def warmup_cosine(peak: Real, steps: int, *, warmup: Real = 0.05, end: Real = 0.0) -> optax.Schedule:
    """A learning rate that rises linearly to a peak, and then falls along half a cosine.

    This is `optax.warmup_cosine_decay_schedule` with the warm-up as a share of the steps ([Loshchilov and Hutter
    2017](https://arxiv.org/abs/1608.03983)).

    ```python
    import flowprop as fp
    import optax

    rate = fp.warmup_cosine(1e-3, 1000, warmup=0.1)
    print(f"{rate(0):.4f} {rate(100):.4f} {rate(550):.4f} {rate(1000):.4f}")  # 0.0000 0.0010 0.0005 0.0000
    optimiser = optax.adamw(rate)
    ```

    **Arguments:**

    - `peak`: the largest learning rate, positive.
    - `steps`: the number of training steps, as in [`flowprop.fit`][].
    - `warmup`: the share of the steps in which the rate rises, at least 0 and below 1.
    - `end`: the learning rate after the last step, as a share of `peak`, from 0 to 1.

    **Returns:** an Optax schedule: a function from the number of steps taken to the learning rate.

    **Raises:** `ValueError` if a number is out of range.
    """
    check_positive(steps=steps)
    check_number("peak", peak, above=0, remedy="give the largest learning rate, for example 1e-3")
    if not 0 <= float(warmup) < 1:
        raise ValueError(f"`warmup` is {warmup}: give a share of the steps, at least 0 and below 1")
    if not 0 <= float(end) <= 1:
        raise ValueError(f"`end` is {end}: give a share of `peak`, from 0 to 1")
    first = 0.0 if warmup else peak
    return optax.warmup_cosine_decay_schedule(first, peak, round(float(warmup) * steps), steps, end_value=end * peak)
