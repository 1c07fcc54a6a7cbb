"""What a file says about its model, without the model."""

import dataclasses
import math
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._types import checked
from .archive import read_header, reading
from .replace import check_regular
from .structure import Node


#: The description of an array of trained numbers: `float32[19, 4]`.
_INEXACT = re.compile(r"(?:b?float|complex)\w*\[([\d, ]*)\]")


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What [`flowprop.model_info`][] returns: what a file says about its model.

    **Arguments:**

    - `name`: the public name of the model's class, such as `flowprop.Flow`.
    - `num_parameters`: how many trained numbers it has, without those in a [`flowprop.Frozen`][].
    - `description`: the parts of the model, one a line.
    - `metadata`: what `save` was given as `metadata`.
    - `versions`: the versions of flowprop, Equinox and JAX that wrote the file; empty if they are not known.
    - `needs_like`: why [`flowprop.load`][] needs `like` for this file; `None` if it does not need it.

    ```python
    import flowprop as fp
    import jax

    fp.save("schedule.fp", fp.LearnableNoiseSchedule((4,), key=jax.random.key(0)))
    info = fp.model_info("schedule.fp")
    print(info.name, info.num_parameters, info.needs_like)  # flowprop.LearnableNoiseSchedule 12 None
    ```
    """

    name: str
    num_parameters: int
    description: str
    metadata: dict[str, Any]
    versions: dict[str, str]
    needs_like: str | None


@checked
def model_info(path: str | os.PathLike[str]) -> ModelInfo:
    """Read what a file of [`flowprop.save`][] says about its model, but no array.

    **Arguments:**

    - `path`: the path of the file.

    **Returns:** a [`flowprop.ModelInfo`][]: the model's class, its number of parameters, a description of its parts,
    and the metadata given to `save`.

    **Raises:** `FileNotFoundError` if there is no such file. `ValueError` if `path` is not a regular file, or if the
    file is damaged, was not written by `save`, or is from a version with another format.

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    fp.save("flow.fp", fp.fm_flow(network, shape=(2,)), metadata={"columns": ["height", "weight"]})
    info = fp.model_info("flow.fp")
    print(info.name, info.metadata)  # flowprop.Flow {'columns': ['height', 'weight']}
    ```
    """
    path = Path(path)
    check_regular(path)
    with reading(path) as file, zipfile.ZipFile(file) as archive:
        header = read_header(path, archive)
        tree = header["tree"]
        old = None if "rebuild" in header else "an older version wrote the file"
        return ModelInfo(
            name=tree["is"],
            num_parameters=_num_parameters(tree),
            description="\n".join(_lines(tree, "model", 0)),
            metadata=dict(header.get("metadata", {})),
            versions=dict(header.get("versions", {})),
            needs_like=header.get("needs_like", old),
        )


def _num_parameters(node: Node) -> int:
    if node["is"] == "flowprop.Frozen":
        return 0
    if "parts" in node:
        return sum(map(_num_parameters, node["parts"].values()))
    shape = _INEXACT.fullmatch(node["is"])
    return math.prod(int(size) for size in shape[1].split(",") if size.strip()) if shape else 0


def _lines(node: Node, part: str, depth: int) -> Iterator[str]:
    settings = ", ".join(f"{key}={value}" for key, value in node.get("static", {}).items())
    value = f" {node['value']}" if "value" in node else ""
    yield f"{'  ' * depth}{part}: {node['is']}{f'({settings})' if settings else ''}{value}"
    for key, child in node.get("parts", {}).items():
        yield from _lines(child, key.removeprefix("."), depth + 1)
