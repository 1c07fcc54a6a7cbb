"""Data: toy densities that are known exactly, image data sets, and augmentations.

Every toy density, such as [`flowprop.data.TwoMoons`][], draws samples with class labels. It also computes its
log-density, its log-density given the class, and the best possible classification. The functions in lower case, such as
[`flowprop.data.two_moons`][], draw samples in one call. The image data sets are NumPy arrays: training images, training
labels, test images, test labels. Augmentations, such as [`flowprop.data.RandomCrop`][], change one training image at
random.
"""

from ._augment import (
    Augmentation as Augmentation,
    RandomAffine as RandomAffine,
    RandomCrop as RandomCrop,
    RandomFlip as RandomFlip,
)
from ._checkerboard import Checkerboard as Checkerboard, checkerboard as checkerboard
from ._cifar import cifar10 as cifar10, cifar100 as cifar100
from ._density import AbstractDensity as AbstractDensity
from ._digits import digits as digits
from ._eight_gaussians import EightGaussians as EightGaussians, eight_gaussians as eight_gaussians
from ._gaussian_mixture import GaussianMixture as GaussianMixture, gaussian_mixture as gaussian_mixture
from ._idx import read_idx as read_idx
from ._mnist import mnist as mnist
from ._pinwheel import Pinwheel as Pinwheel, pinwheel as pinwheel
from ._s_curve import SCurve as SCurve, s_curve as s_curve
from ._spirals import Spirals as Spirals, spirals as spirals
from ._two_moons import TwoMoons as TwoMoons, two_moons as two_moons
