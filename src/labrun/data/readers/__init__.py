"""The kinds of data set that labrun reads."""

from labrun.data.readers.cifar import Cifar10
from labrun.data.readers.digits import Digits
from labrun.data.readers.folder import ImageFolder
from labrun.data.readers.idx import FashionMnist, Mnist

__all__ = ["Cifar10", "Digits", "FashionMnist", "ImageFolder", "Mnist"]
