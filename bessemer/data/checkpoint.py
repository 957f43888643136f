"""A checkpoint opened whole: model and tokenizer, which must belong together."""

from collections.abc import Sequence
from pathlib import Path

import torch

from bessemer.model import weights
from bessemer.model.config import ModelConfig, Shape
from bessemer.model.model import Model
from bessemer.tokenizer.tokenizer import Tokenizer


def load(path: Path, device: torch.device | str = "cpu", shapes: Sequence[Shape] = ("decoder",)) -> tuple[Model, Tokenizer]:
    """ValueError where the model has another shape, or the tokenizer has ids that the model does not know.

    Fewer ids are fine: vocabularies are padded to round numbers.
    """
    check_shape(weights.load_config(path), shapes, str(path))
    model, words = weights.load(path, device), Tokenizer.load(path)
    check_vocabulary(model.cfg, words, str(path))
    return model, words


def check_vocabulary(cfg: ModelConfig, words: Tokenizer, place: str) -> None:
    """ValueError where the tokenizer has ids that the model does not know."""
    if words.vocab > cfg.vocab:
        raise ValueError(f"{place}: its tokenizer has {words.vocab} entries, its model only {cfg.vocab}: they do not belong together")


def check_shape(cfg: ModelConfig, shapes: Sequence[Shape], place: str) -> None:
    """ValueError where a model has none of these shapes; one that writes needs its language-model head too."""
    if cfg.shape not in shapes:
        raise ValueError(f"{place} is a model of shape {cfg.shape}, and {' or '.join(shapes)} is needed")
    if "encoder" not in shapes and not cfg.has_lm:
        raise ValueError(f"{place} has a head that classifies (head = {cfg.head}): it writes no text")
