"""The classifier two-sample test."""

import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from .._types import PRNGKey, check_key, checked
from ._samples import FirstSample, SecondSample, check_at_least, matrices


_NUM_FOLDS = 5
_EPOCHS = 100


class TwoSampleTest(NamedTuple):
    """The result of [`flowprop.metrics.classifier_two_sample_test`][].

    **Arguments:**

    - `accuracy`: the fraction of points that were assigned to the right sample, each by a classifier that was not
        trained on it. It is about 0.5 if the samples cannot be distinguished, and 1 if they always can.
    - `p_value`: the probability of at least this accuracy by guessing.

    ```python
    import flowprop as fp

    test = fp.metrics.TwoSampleTest(accuracy=0.53, p_value=0.2)
    print(test.accuracy, test.p_value)  # 0.53 0.2
    ```
    """

    accuracy: float
    p_value: float


@checked
def classifier_two_sample_test(
    a: FirstSample, b: SecondSample, *, classifier: Any = None, key: PRNGKey
) -> TwoSampleTest:
    """The classifier two-sample test (C2ST): the accuracy of a classifier that is trained to distinguish two samples.

    The test uses five-fold cross-validation: each of five classifiers is trained on four fifths of the points and
    classifies the others. If both samples come from one distribution, the number of correct classifications is binomial
    with probability 1/2 ([Lopez-Paz & Oquab 2017](https://arxiv.org/abs/1610.06545), section 3). The five classifiers
    share most of their training points, so the p-value is approximate. For example, we took 300 pairs of samples of 50
    points each from one distribution. With nearest neighbours as the classifier, 9 % of the p-values were below 0.05.

    The accuracy is a lower bound on that of the best possible classifier, on average: a classifier may miss a
    difference that another sees. The benchmark's network stops when its loss does not improve for ten epochs. Two pairs
    of crescents with 2,000 points each, of which the best classifier tells apart 70.75 %, had accuracies of 0.53 to
    0.58 with it over four seeds, and 0.69 with the default. If both densities are known, use
    [`flowprop.metrics.bayes_accuracy`][], which is exact.

    **Arguments:**

    - `a`: the first sample, `(n, *shape)`. Points of any shape are treated as vectors.
    - `b`: the second sample, `(n, *shape)`, of the same size.
    - `classifier`: by default the mean of the probabilities of three classifiers: 25 nearest neighbours, boosted trees,
        and a network of two hidden layers that trains for 100 epochs, of which the best on held-out points is kept.
        `"sbibm"` is the network of the benchmark of [Lueckmann et al. 2021](https://arxiv.org/abs/2101.04653), with
        two hidden layers of ten units for each coordinate, but at most 256: use it to compare with published figures.
        Or an unfitted classifier of scikit-learn.
    - `key`: a typed key, for the folds and for the classifiers that are named here.

    **Returns:** a [`flowprop.metrics.TwoSampleTest`][].

    **Raises:** `ValueError` if the samples have fewer than five points, differ in size, or are not finite, or
    `classifier` is an unknown name; `TypeError`
    if `key` is not one typed key; `ImportError` if scikit-learn is not installed.

    ```python
    import flowprop as fp
    import jax

    key_a, key_b, key = jax.random.split(jax.random.key(0), 3)
    a, b = jax.random.normal(key_a, (50, 2)), 2 + jax.random.normal(key_b, (50, 2))

    from sklearn.linear_model import LogisticRegression

    test = fp.metrics.classifier_two_sample_test(
        a, b, classifier=LogisticRegression(), key=key
    )
    print(test.accuracy > 0.8, test.p_value < 0.01)  # True True
    ```
    """
    check_key("key", key)
    if len(a) != len(b):
        raise ValueError(
            f"`a` has {len(a)} points and `b` {len(b)}: give equally many, so that a guess is correct half of the time"
        )
    check_at_least(_NUM_FOLDS, a=a, b=b)
    first, second = matrices(a, b)
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as error:
        raise ImportError("this test needs scikit-learn: `pip install 'flowprop[metrics]'`") from error
    from scipy.stats import binom

    points, labels = np.concatenate([first, second]), np.repeat([0, 1], len(first))
    fold_seed, classifier_seed = jax.random.randint(key, (2,), 0, 2**31 - 1).tolist()
    folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=fold_seed)
    if classifier is None:
        classifier = _several(len(first), classifier_seed)
    elif isinstance(classifier, str):
        if classifier != "sbibm":
            raise ValueError(f"`classifier` is {classifier!r}: give 'sbibm', a classifier of scikit-learn or None")
        classifier = _sbibm(points.shape[1], classifier_seed)
    with warnings.catch_warnings():
        # More iterations may not improve the accuracy on unseen points.
        warnings.simplefilter("ignore", ConvergenceWarning)
        right = int(np.sum(cross_val_predict(classifier, points, labels, cv=folds) == labels))
    return TwoSampleTest(right / len(labels), float(binom.sf(right - 1, len(labels), 0.5)))


def _several(size: int, seed: int) -> Any:
    """The average of the probabilities of three classifiers. No one of them is good at everything."""
    from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    enough = size >= 50  # to hold out a tenth of the points
    neighbours = KNeighborsClassifier(max(1, min(25, size // 4)))
    trees = HistGradientBoostingClassifier(
        learning_rate=0.05, max_leaf_nodes=15, max_iter=500 if enough else 50, early_stopping=enough, random_state=seed
    )
    # It must not stop at a plateau: it trains to the end, and the best epoch on the points held out is kept.
    network = MLPClassifier(
        (64, 64),
        learning_rate_init=3e-3,
        max_iter=_EPOCHS,
        n_iter_no_change=_EPOCHS,
        tol=0.0,
        early_stopping=enough,
        random_state=seed,
    )
    members = [
        ("neighbours", make_pipeline(StandardScaler(), neighbours)),
        ("trees", trees),
        ("network", make_pipeline(StandardScaler(), network)),
    ]
    return VotingClassifier(members, voting="soft")


def _sbibm(dim: int, seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    width = min(10 * dim, 256)
    return make_pipeline(StandardScaler(), MLPClassifier((width, width), max_iter=1000, random_state=seed))
