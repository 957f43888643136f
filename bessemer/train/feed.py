"""Batches, prepared while the step before them runs."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from bessemer.model.config import ModelConfig
from bessemer.scale import count
from bessemer.train.means import totals, weighed
from bessemer.train.objective import Batch

Source = Callable[[int], Batch]  # a pure function of the step


@dataclass(frozen=True)
class Share:
    """What one rank reads of a step, on its device."""

    batch: Batch  # its rows
    totals: dict[str, Tensor]  # weights of the whole step
    tokens: int  # of the whole step
    flops: float  # of the whole step


def feed(source: Source, steps: range, rows: tuple[int, int], model: ModelConfig, where: torch.device) -> Iterator[Share]:
    """A share for each step. `rows`: (which, of how many): row i of a batch belongs to i % of == which.

    The next one is made by a thread while the caller works: sources are pure, so nobody can tell. ValueError where a step weighs nothing.
    """
    with ThreadPoolExecutor(1, "feed") as thread:
        ready = None
        for step in steps:
            share = ready.result() if ready else _share(source, step, rows, model, where)
            ready = thread.submit(_share, source, step + 1, rows, model, where) if step + 1 in steps else None
            yield share


def _share(source: Source, step: int, rows: tuple[int, int], model: ModelConfig, where: torch.device) -> Share:
    batch = weighed(source(step))
    weights = totals([batch])
    if any(weight <= 0 for weight in weights.values()):
        raise ValueError(f"step {step + 1} has no weight at all: every token of its rows is masked out")
    own = {name: column[rows[0] :: rows[1]] for name, column in batch.items()}
    tokens, flops = size(model, batch)
    return Share(moved(own, where), moved(weights, where), tokens, flops)


def moved(columns: dict[str, Tensor], where: torch.device) -> dict[str, Tensor]:
    """On the device; copies to a GPU do not make anybody wait."""
    if where.type != "cuda":
        return columns
    return {name: column.pin_memory().to(where, non_blocking=True) for name, column in columns.items()}


def size(model: ModelConfig, batch: Batch) -> tuple[int, float]:
    """Tokens that a batch makes the model read, and the FLOPs to learn from them."""
    source = batch["source_tokens"].shape[1] if "source_tokens" in batch else 0
    predicted = batch["picked"].shape[1] if "picked" in batch else None
    texts = [column for name, column in batch.items() if name.endswith("tokens") and name != "source_tokens"]
    flops = sum(len(column) * count.row_flops(model, column.shape[1], source, predicted) for column in texts)
    return sum(len(column) * (column.shape[1] + source) for column in texts), flops
