"""How well properties are read off features: probes that are fitted to training networks, chosen by validation
networks and scored on others."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import kendalltau
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, r2_score
from sklearn.preprocessing import StandardScaler


# of arXiv 2110.15288: 1 and 3 of every decade from 1e3 to 1e-5
PENALTIES = (1e3, *(step * 10.0**decade for decade in range(2, -6, -1) for step in (3, 1)))
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression
PROBES = ("linear", "trees")


@dataclass(frozen=True)
class Parts:
    """The same of training, validation and test checkpoints: features (checkpoints, width), or a property
    (checkpoints,)."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def scaled(self) -> "Parts":
        """Features with the training checkpoints' mean 0 and variance 1."""
        scaler = StandardScaler().fit(self.train)
        return Parts(*(scaler.transform(part) for part in (self.train, self.validation, self.test)))

    @cached_property
    def decomposition(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (rank,) and eigenvectors (width, rank) of the training features' products."""
        if len(self.train) < self.train.shape[1]:
            _, singular, rows = np.linalg.svd(self.train, full_matrices=False)
            return singular**2, rows.T
        eigenvalues, vectors = np.linalg.eigh(self.train.T @ self.train)
        return eigenvalues.clip(min=0.0), vectors


def probe(kind: str, features: Parts, target: Parts, seed: int, trees: int) -> dict[str, float]:
    """Scores on test checkpoints.

    The linear probe is a ridge regression, whose penalty of 17 has the best R² on validation checkpoints, or for texts
    a logistic regression chosen in the same way by accuracy. The other one is gradient-boosted trees, as many as are
    best on validation checkpoints.

    arXiv 2110.15288 leaves features as they are, and has a linear layer trained by Adam for texts.

    Args:
        kind (`str`): one of [`PROBES`].
        features ([`Parts`]): (checkpoints, width), scaled.
        target ([`Parts`]): (checkpoints,), numbers or texts.
        seed (`int`): of the trees.
        trees (`int`): at most.

    Returns:
        `dict[str, float]`: `r2` and `kendall_tau` of numbers (0 where all predictions are equal), `accuracy` of texts.
    """
    is_number = target.train.dtype.kind in "fiub"
    if kind == "linear":
        predicted = (_ridge if is_number else _logistic)(features, target)
    else:
        predicted = _boosted(features, target, seed, trees)
    if not is_number:
        return {"accuracy": float(accuracy_score(target.test, predicted))}
    tau = float(kendalltau(target.test, predicted).statistic)
    return {"r2": float(r2_score(target.test, predicted)), "kendall_tau": tau if np.isfinite(tau) else 0.0}


def _ridge(features: Parts, target: Parts) -> np.ndarray:
    """In closed form, float64, with a constant; one decomposition serves all penalties and properties."""
    eigenvalues, vectors = features.decomposition
    mean = target.train.mean()
    rotated = vectors.T @ (features.train.T @ (target.train - mean))
    coefficients = [vectors @ (rotated / (eigenvalues + penalty)) for penalty in PENALTIES]
    scores = [r2_score(target.validation, mean + features.validation @ one) for one in coefficients]
    return mean + features.test @ coefficients[int(np.argmax(scores))]


def _logistic(features: Parts, target: Parts) -> np.ndarray:
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what is not converged competes as it is
        for strength in STRENGTHS:
            fitted = LogisticRegression(C=strength, max_iter=200).fit(features.train, target.train)
            found.append((accuracy_score(target.validation, fitted.predict(features.validation)), fitted))
    return max(found, key=lambda one: one[0])[1].predict(features.test)


def _boosted(features: Parts, target: Parts, seed: int, trees: int) -> np.ndarray:
    is_number = target.train.dtype.kind in "fiub"
    kind = HistGradientBoostingRegressor if is_number else HistGradientBoostingClassifier
    score = r2_score if is_number else accuracy_score
    fitted = kind(max_iter=trees, early_stopping=False, random_state=seed).fit(features.train, target.train)
    scores = [score(target.validation, predicted) for predicted in fitted.staged_predict(features.validation)]
    best = int(np.argmax(scores))
    for step, predicted in enumerate(fitted.staged_predict(features.test)):
        if step == best:
            return predicted
    raise AssertionError("there is at least one tree")


__all__ = ["PENALTIES", "PROBES", "Parts", "probe"]
