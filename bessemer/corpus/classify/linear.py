"""A linear classifier of texts: multinomial logistic regression over hashed features, its scores calibrated."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bessemer.core import artifact
from bessemer.corpus.classify.features import Features, Hasher

WEIGHTS, ABOUT = "weights.safetensors", "config.json"
FOLDS = 4  # one part in so many is kept unseen at first, to choose strength and temperature on
STRENGTHS = (1.0, 30.0)  # how far weights may go to fit the examples (the inverse of the L2 penalty): little where labels are noisy
STEPS = 100  # of the solver at most
SHARPEST = 0.5  # the least temperature: where all examples are told apart, nothing says how sure to be, and surer would be as likely


@dataclass(frozen=True)
class Linear:
    """p(class | text) = softmax(features @ weights + bias), the temperature already in both."""

    classes: list[str]
    weights: np.ndarray  # (2**bits, K)
    bias: np.ndarray  # (K,)
    hasher: Hasher

    def probabilities(self, text: str) -> np.ndarray:
        """(K,) of one text. A text without features gets about the shares of the classes among the examples."""
        return self.of(self.hasher(text))

    def of(self, features: Features) -> np.ndarray:
        """The same of its features."""
        places, values = features
        return softmax(values @ self.weights[places] + self.bias)

    def save(self, folder: Path) -> None:
        with artifact.atomic(folder / WEIGHTS) as temporary:
            temporary.write_bytes(save({"weights": self.weights, "bias": self.bias}))
        artifact.write_json(folder / ABOUT, {"classes": self.classes, "bits": self.hasher.bits, "characters": self.hasher.characters})

    @staticmethod
    def load(folder: Path) -> "Linear":
        """The classifier in a folder. FileNotFoundError where there is none, ValueError where it is damaged."""
        for name in (ABOUT, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} is no classifier: it has no {name}")
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            tensors = load((folder / WEIGHTS).read_bytes())
            model = Linear(about["classes"], tensors["weights"], tensors["bias"], Hasher(about["bits"], about["characters"]))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder} is no whole classifier: {error}") from None
        if model.weights.shape != (1 << about["bits"], len(model.classes)):
            raise ValueError(f"{folder} is no whole classifier: weights of shape {model.weights.shape} for {len(model.classes)} classes")
        return model


def train(classes: list[str], texts: list[Features], y: np.ndarray, rank: np.ndarray, hasher: Hasher) -> tuple[Linear, dict[str, float]]:
    """The classifier of these texts of classes y (N,), and what was chosen for it: of STRENGTHS and of all temperatures (Guo et al. 2017,
    "On Calibration of Modern Neural Networks", section 4.2) those under which the labels of unseen texts, rank % FOLDS == 0, are likeliest.
    """
    from scipy.optimize import minimize_scalar
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    places, values = (np.concatenate(parts) for parts in zip(*texts, strict=True))
    rows = csr_matrix((values, places, np.cumsum([0, *(len(text[0]) for text in texts)])), shape=(len(y), 1 << hasher.bits))
    # Only what two texts share can carry over to a third, and the solver's memory is ten times the columns times the classes.
    columns = np.flatnonzero(np.bincount(places, minlength=1 << hasher.bits) > 1)
    if not len(columns):
        raise ValueError("classifier: no two examples have a word in common: there is nothing to learn")
    rows, unseen, best = rows[:, columns].tocsr(), rank % FOLDS == 0, (np.inf, 1.0, 1.0)
    with threadpool_limits(1):  # the order of a sum is part of the result
        for strength in STRENGTHS:
            weights, bias = fit(rows[~unseen], y[~unseen], strength)
            logits = rows[unseen] @ weights + bias
            found = minimize_scalar(lambda log, z=logits: surprise(z / np.exp(log), y[unseen]), bounds=np.log([SHARPEST, 5.0]), method="bounded")
            best = min(best, (float(found.fun), strength, float(np.exp(found.x))))
        loss, strength, temperature = best
        weights, bias = fit(rows, y, strength)
    whole = np.zeros((1 << hasher.bits, len(classes)), np.float32)
    whole[columns] = weights / temperature
    chosen = {"strength": strength, "temperature": temperature, "unseen_loss": loss}
    return Linear(classes, whole, (bias / temperature).astype(np.float32), hasher), chosen


def fit(rows: Any, y: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (columns, K) and bias (K,) of the logistic regression of classes y (N,) on sparse rows (N, columns)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what later steps gain is far less than the labels' noise
        model = LogisticRegression(C=strength, max_iter=STEPS).fit(rows, y)
    if len(model.classes_) == 2:  # scikit-learn has one column there, for the second class
        return np.vstack([np.zeros_like(model.coef_), model.coef_]).T, np.array([0.0, model.intercept_[0]])
    return model.coef_.T, model.intercept_


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def surprise(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    return float(-np.log(np.maximum(softmax(logits)[np.arange(len(labels)), labels], 1e-30)).mean())
