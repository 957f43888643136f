"""How good a classifier is on examples it has not seen."""

import numpy as np

BINS = 15


def numbers(classes: list[str], labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy, F1 (weighted by class size, and the plain mean), AUC (two classes: of the second; more: mean of one against the rest),
    calibration error, and of each class how many there were, precision, recall and F1. labels (N,), probabilities (N, K)."""
    from sklearn.metrics import f1_score, precision_recall_fscore_support, roc_auc_score

    found, every = probabilities.argmax(1), list(range(len(classes)))
    two = len(classes) == 2
    of_each = precision_recall_fscore_support(labels, found, labels=every, zero_division=0.0)
    result = {
        "accuracy": float((found == labels).mean()),
        "f1_weighted": float(f1_score(labels, found, average="weighted", zero_division=0.0)),
        "f1_mean": float(np.mean(of_each[2])),
        "auc": float(roc_auc_score(labels, probabilities[:, 1] if two else probabilities, multi_class="ovr", labels=every)),
        "calibration_error": calibration_error(probabilities.max(1), found == labels),
    }
    for index, name in enumerate(classes):
        for what, values in zip(("precision", "recall", "f1", "held_out"), of_each, strict=True):
            result[f"{what}: {name}"] = float(values[index])
    return result


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """How far confidence and the share that is right lie apart, on average over BINS equal ranges of confidence, each by its size
    (expected calibration error, Guo et al. 2017, equation 3)."""
    where = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(where, weights, BINS) for weights in (confidence, right.astype(float))]
    return float(np.abs(sums[0] - sums[1]).sum() / len(confidence))
