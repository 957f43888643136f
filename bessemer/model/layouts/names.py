"""What several families share: renaming weights, and reading fields of config.json."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from bessemer.model.config import ModelConfig

Names = Sequence[tuple[str, str]]  # (ours, theirs)
Ours = TypeVar("Ours")


def layers(ours: str, theirs: str, pairs: Names, depth: int) -> list[tuple[str, str]]:
    """The names of every block, from those within one."""
    return [(f"{ours}.{i}.{mine}", f"{theirs}.{i}.{yours}") for i in range(depth) for mine, yours in pairs]


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Under new names where there is one; the others stay."""
    return {names.get(name, name): tensor for name, tensor in state.items()}


def with_head(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    """With the head's weight, under our names; a tied one is stored once, as the embedding."""
    return {**state, "head.weight": state["embed.weight"]} if cfg.has_lm and cfg.tied and "embed.weight" in state else state


def choice(given: Mapping[str, Any], field: str, usual: str, choices: Mapping[Ours, str]) -> Ours:
    """Our name for what a field says; `usual` where it says nothing. ValueError for what is not among `choices` (ours: theirs)."""
    found = {theirs: ours for ours, theirs in choices.items()}.get(given.get(field, usual))
    if found is None:
        raise ValueError(f"{field} {given[field]!r} is not supported ({', '.join(choices.values())})")
    return found


def classes(given: Mapping[str, Any]) -> int:
    """How many classes a classifier has: two where nothing says."""
    return given.get("num_labels") or len(given.get("id2label") or (0, 1))
