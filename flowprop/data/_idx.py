"""The IDX format: the header of an array, then its elements, big-endian (yann.lecun.com/exdb/mnist)."""

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
    """Read an array from an IDX file, as it is or compressed by gzip (told by the content, not by the name).

    The file is two zero bytes, a byte for the element type, a byte for the number of axes, four bytes for the size of
    each axis, and the elements.

    **Arguments:**

    - `path`: the file.

    **Returns:** a NumPy array of the shape and element type that the file states.

    **Raises:** `ValueError`, naming the file, if it is not an IDX file, is damaged, too short or too long;
    `FileNotFoundError` if there is none.
    """
    content = decompressed(Path(path).read_bytes(), str(path))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _ELEMENT_TYPES:
        raise ValueError(f"{path} is not an IDX file: it begins with 0x{content[:4].hex()}")
    dtype, ndim = np.dtype(_ELEMENT_TYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise ValueError(f"{path} is cut short: its header needs {start} bytes, and there are {len(content)}")
    shape = struct.unpack(f">{ndim}I", content[4:start])
    size = start + math.prod(shape) * dtype.itemsize
    if len(content) != size:
        fault = "cut short" if len(content) < size else "too long"
        raise ValueError(f"{path} is {fault}: its shape {shape} needs {size} bytes, and there are {len(content)}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def decompressed(content: bytes, name: str) -> bytes:
    """The content of the file `name` without gzip's compression, if it has any."""
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name} is a damaged or incomplete gzip file ({error}): get it again") from error
