"""Multiple choice by likelihood: the model's answer is the choice that it finds most likely after the question."""

from collections.abc import Sequence

import numpy as np

from bessemer.eval import likelihood
from bessemer.model.model import Model


def log_likelihoods(model: Model, prompts: Sequence[Sequence[int]], choices: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    """Natural log-probability of every choice of every question. `choices` are token ids, as they would follow the prompt."""
    pairs = [(prompt, choice) for prompt, options in zip(prompts, choices, strict=True) for choice in options]
    found = iter(likelihood.continuations(model, pairs, "choices"))
    return [[next(found) for _ in options] for options in choices]


def picks(scores: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]] | None = None) -> list[int]:
    """The most likely choice of each question; the first of equals.

    Summed log-probability favours short choices. `sizes` (bytes of each choice) divides it out, which compares choices
    fairly across lengths and tokenizers, as lm-evaluation-harness does under the name acc_norm.
    """
    if sizes is None:
        return [int(np.argmax(row)) for row in scores]
    if any(size <= 0 for row in sizes for size in row):
        raise ValueError("a choice without text cannot be normalised by its length")
    return [int(np.argmax(np.divide(row, size))) for row, size in zip(scores, sizes, strict=True)]
