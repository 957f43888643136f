"""Our own layout: every model, under its own names, with its config as it is."""

from typing import Any

from torch import Tensor

from bessemer.core import config as settings
from bessemer.model.config import ModelConfig
from bessemer.model.layouts import names

TYPES = ("bessemer",)


def config(cfg: ModelConfig) -> dict[str, Any]:
    # In a table of its own: transformers, which opens the tokenizer, takes some of these words for its own fields.
    return {"model_type": "bessemer", "architectures": ["BessemerModel"], "model": settings.plain(cfg)}


def read(given: dict[str, Any]) -> ModelConfig:
    return settings.parse(ModelConfig, given["model"], "config.json")


def theirs(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    return {name: weight for name, weight in state.items() if not (cfg.has_lm and cfg.tied and name == "head.weight")}


def ours(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    return names.with_head(state, cfg)
