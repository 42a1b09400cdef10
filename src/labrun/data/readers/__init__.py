"""Readers for the kinds of data set that labrun supports."""

from labrun.data.readers.cifar import Cifar10
from labrun.data.readers.digits import Digits
from labrun.data.readers.folder import ImageFolder
from labrun.data.readers.idx import FashionMnist, Mnist
from labrun.data.readers.table import Csv
from labrun.data.readers.user_arrays import GetData, Npz

__all__ = ["Cifar10", "Csv", "Digits", "FashionMnist", "GetData", "ImageFolder", "Mnist", "Npz"]
