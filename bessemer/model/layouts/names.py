"""Renaming weights."""

from collections.abc import Sequence

from torch import Tensor

Names = Sequence[tuple[str, str]]  # (ours, theirs)


def layers(ours: str, theirs: str, pairs: Names, depth: int) -> list[tuple[str, str]]:
    """The names of every block, from those within one."""
    return [(f"{ours}.{i}.{mine}", f"{theirs}.{i}.{yours}") for i in range(depth) for mine, yours in pairs]


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Under new names where there is one; the others stay."""
    return {names.get(name, name): tensor for name, tensor in state.items()}
