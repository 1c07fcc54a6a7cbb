"""The numbers of a training for TensorBoard."""

import atexit
import os
from typing import Any

from .._types import checked
from .history import Report


class TensorBoard:
    """A callback of [`flowprop.fit`][] that writes the numbers of each evaluation for TensorBoard.

    The numbers are those of [`flowprop.Report`][]: the mean loss and metrics since the last evaluation, the validation
    loss, and what `evaluate` returns. If a training goes on from a checkpoint, the points of steps that it repeats are
    replaced. Look at them with `tensorboard --logdir FOLDER`. Needs the extra `flowprop[tensorboard]`.

    **Arguments:**

    - `folder`: the folder for the event files. It is made at the first evaluation.

    **Raises:** `ImportError` if `tensorboardX` is not installed.

    ```python
    import os
    import tempfile

    import flowprop as fp
    import jax
    import optax

    points, _ = fp.data.two_moons(200, key=jax.random.key(0))
    net = fp.nn.MLP(shape=(2,), width=16, depth=1, key=jax.random.key(1))
    with tempfile.TemporaryDirectory() as folder:
        board = fp.TensorBoard(folder)
        fp.fit(
            fp.fm_flow(net, shape=(2,)),
            points,
            optax.adam(1e-2),
            steps=100,
            batch_size=50,
            key=jax.random.key(2),
            callbacks=board,
            progress=False,
        )
        board.close()
        print(len(os.listdir(folder)))  # 1
    ```
    """

    @checked
    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("`TensorBoard` needs tensorboardX: pip install flowprop[tensorboard]") from error
        self._folder, self._make = os.fspath(folder), SummaryWriter
        self._writer: Any = None

    def __call__(self, report: Report) -> None:
        """Write the numbers of a report.

        **Arguments:**

        - `report`: what `fit` tells its callbacks.
        """
        if self._writer is None:
            self._writer = self._make(self._folder, purge_step=report.step, flush_secs=10)
            # A thread of its own writes. It does not outlive the process.
            atexit.register(self.close)
        for name, value in report.values.items():
            self._writer.add_scalar(name, value, report.step)

    def close(self) -> None:
        """Write what is left, and close the file. This happens by itself at the end of the process."""
        if self._writer is not None:
            self._writer.close()
