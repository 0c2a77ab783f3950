"""Trains the iris classifier that stands in for the model of KServe's first tutorial."""

import joblib
from sklearn.datasets import load_iris
from sklearn.svm import SVC


def train(path: str) -> None:
    """Train on the data set that scikit-learn ships, and write the model."""
    data, target = load_iris(return_X_y=True)
    joblib.dump(SVC(gamma="scale").fit(data, target), path)
