"""How others name what we have: a file a family, each with

TYPES                     the values of model_type in config.json that it reads
config(cfg)               config.json of this model, or None where the family has no place for one of its choices
read(given)               the model that a config.json describes; ValueError where it is one that we do not build
theirs(state, cfg)        our weights under their names
ours(state, cfg)          their weights under our names, less what is no weight; names that are not known stay as they are
"""

from types import ModuleType
from typing import Any

from bessemer.model.config import ModelConfig
from bessemer.model.layouts import bert, experts, gpt2, llama, own, rwkv, t5

FAMILIES: tuple[ModuleType, ...] = (llama, experts, gpt2, bert, t5, rwkv, own)  # own holds every model, so it comes last


def of(cfg: ModelConfig) -> tuple[ModuleType, dict[str, Any]]:
    """The first family that holds this model, and its config.json."""
    if cfg.embed_skip or cfg.value_embed:  # weights that no other family has a name for
        return own, own.config(cfg)
    for family in FAMILIES:
        if (given := family.config(cfg)) is not None:
            return family, given
    raise AssertionError("own holds every model")


def named(model_type: str | None) -> ModuleType:
    """The family of a model_type. ValueError where there is none."""
    for family in FAMILIES:
        if model_type in family.TYPES:
            return family
    known = sorted(name for family in FAMILIES for name in family.TYPES)
    raise ValueError(f"model_type {model_type!r} is not supported ({', '.join(known)})")
