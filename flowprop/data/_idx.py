"""The IDX format: a header with the type and shape of an array, then its elements, big-endian."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from .._types import checked


_ELEMENT_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


@checked
def read_idx(path: str | os.PathLike[str]) -> Shaped[np.ndarray, "*shape"]:
    """Read an array from an IDX file, the format of [MNIST](https://yann.lecun.com/exdb/mnist), plain or compressed.

    The file holds two zero bytes, one byte for the element type, one byte for the number of axes, four bytes for the
    size of each axis, and the elements. A file that begins with the two bytes of gzip is decompressed; its name
    does not matter.

    ```python
    from pathlib import Path
    import flowprop as fp

    # Element type 8 (uint8), 1 axis of size 3, and the elements 5, 0, 4.
    Path("labels.idx").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    print(fp.data.read_idx("labels.idx"))  # [5 0 4]
    ```

    **Arguments:**

    - `path`: the path of the file.

    **Returns:** a NumPy array with the shape and element type given in the file.

    **Raises:** `ValueError`, which names the file, if it is not an IDX file, is damaged, too short or too long;
    `FileNotFoundError` if it does not exist.
    """
    content = decompressed(Path(path).read_bytes(), str(path))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _ELEMENT_TYPES:
        raise ValueError(f"{path} is not an IDX file: it begins with 0x{content[:4].hex()}")
    dtype, ndim = np.dtype(_ELEMENT_TYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise ValueError(f"{path} is too short: its header needs {start} bytes, and the file has {len(content)}")
    shape = struct.unpack(f">{ndim}I", content[4:start])
    size = start + math.prod(shape) * dtype.itemsize
    if len(content) != size:
        fault = "too short" if len(content) < size else "too long"
        raise ValueError(f"{path} is {fault}: its shape {shape} needs {size} bytes, and the file has {len(content)}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def decompressed(content: bytes, name: str) -> bytes:
    """The content of the file `name`, decompressed if it is a gzip file."""
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name} is a damaged or incomplete gzip file ({error}): download it again") from error
