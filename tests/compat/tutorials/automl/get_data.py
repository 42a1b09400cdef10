# ruff: noqa
# fmt: off
from sklearn import datasets


def get_data():
    digits = datasets.load_digits()
    X_digits = digits.data[100:400, :]
    y_digits = digits.target[100:400]
    return { "X" : X_digits, "y" : y_digits }
