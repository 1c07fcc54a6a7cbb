"""The small handwritten digits of scikit-learn."""

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
    """The 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn. Nothing is downloaded.

    The images are those of
    [`load_digits`](https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html). Their 17 grey
    levels are scaled to 0 ... 255. A fixed fifth of the images is the test set: `train_test_split` of scikit-learn
    draws it class by class (stratified) with the seed 0.

    ```python
    import flowprop as fp

    train_images, train_labels, test_images, test_labels = fp.data.digits()
    print(train_images.shape, train_labels.shape)  # (1437, 8, 8, 1) (1437,)
    print(test_images.shape, test_labels.shape)  # (360, 8, 8, 1) (360,)
    print(train_images.dtype, train_images.max())  # uint8 255
    ```

    **Returns:** four NumPy arrays: training images `(1437, 8, 8, 1)`, uint8; training labels `(1437,)`, int32; test
    images `(360, 8, 8, 1)`, uint8; test labels `(360,)`, int32.

    **Raises:** `ImportError` if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("`digits` needs scikit-learn: `pip install 'flowprop[data]'`") from error
    levels, labels = load_digits(return_X_y=True)
    images = np.round(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels.astype(np.int32), test_size=0.2, stratify=labels, random_state=0
    )
    return train_images, train_labels, test_images, test_labels
