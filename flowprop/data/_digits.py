"""Scikit-learn's small handwritten digits."""

import numpy as np
from jaxtyping import Int32, UInt8

from .._types import checked


@checked
def digits() -> tuple[
    UInt8[np.ndarray, "train 8 8 1"],
    Int32[np.ndarray, " train"],
    UInt8[np.ndarray, "test 8 8 1"],
    Int32[np.ndarray, " test"],
]:
    """The 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn: nothing to download.

    The pixels' 17 levels are spread over 0 to 255. A fixed fifth of the images, drawn class by class with the seed
    0, is the test set (`sklearn.model_selection.train_test_split`).

    **Returns:** training images `(1437, 8, 8, 1)`, uint8, training labels `(1437,)`, int32, test images
    `(360, 8, 8, 1)`, and test labels `(360,)`, as NumPy arrays.

    **Raises:** `ImportError` if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("these digits need scikit-learn: `pip install 'flowprop[data]'`") from error
    levels, labels = load_digits(return_X_y=True)
    images = np.round(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels.astype(np.int32), test_size=0.2, stratify=labels, random_state=0
    )
    return train_images, train_labels, test_images, test_labels
