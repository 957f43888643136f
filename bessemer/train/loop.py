"""The training loop. There is one: what differs between methods is the source and the objective."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import Tensor

from bessemer.core import artifact, device, dist, log
from bessemer.core.config import Count, Fraction, Positive, Whole, runtime
from bessemer.model.model import Model
from bessemer.scale import count
from bessemer.train import checkpoint
from bessemer.train.objective import Batch, Objective
from bessemer.train.optimizer import OptimizerName, build, schedule, trained

Source = Callable[[int], Batch]  # a pure function of the step
METRICS = "metrics.jsonl"
Decay = Annotated[float, Interval(ge=0.0, lt=1.0)]


@dataclass(frozen=True)
class FitConfig:
    steps: Count = 1000
    batch: Count = 16  # rows per step, over all ranks
    optimizer: OptimizerName = "adamw"  # muon: Muon for the matrices of the blocks, AdamW for the rest
    lr: Positive = 2e-3  # peak learning rate
    warmup: Fraction = 0.05  # share of the steps in which the rate rises
    decay: Fraction = 0.4  # share of the steps at the end in which it falls to zero
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    weight_decay: Annotated[float, Ge(0.0)] = 0.1
    clip: Positive = 1.0  # largest gradient norm
    balance_rate: Positive = 1e-3  # how far an expert's bias moves in a step, where balance = bias
    precision: device.Precision = "auto"  # of matrix products; weights and optimizer state are fp32
    seed: Whole = 0
    micro_batch: Whole = runtime(0)  # rows at a time per rank; 0: all of them
    compile: bool = runtime(True)
    log_every: Count = runtime(10)  # steps
    eval_every: Count = runtime(100)
    save_every: Count = runtime(100)


def fit(
    model: Model, objective: Objective, source: Source, cfg: FitConfig, folder: Path, held_out: Sequence[Batch] = (), label: str = "train"
) -> Iterator[dict[str, Any]]:
    """Train `model` in place for `cfg.steps` steps, going on from the last checkpoint in `folder`.

    Yields a row of numbers at each report, so that the caller can look at the model in between; the same rows stand in
    run/metrics.jsonl. FloatingPointError when the loss is no longer finite; the last checkpoint stays.
    """
    dist.start()
    if cfg.batch < dist.world():
        raise ValueError(f"batch {cfg.batch} has no row for each of {dist.world()} ranks")
    where = device.pick()
    model.to(where).train()
    updates = build(cfg.optimizer, model, cfg.lr, (cfg.beta1, cfg.beta2), cfg.weight_decay, cfg.balance_rate)
    # A run goes on in the precision it began with, whatever a second measurement would choose.
    first, begun_in = checkpoint.load(folder, model, updates)
    dtype = begun_in or device.precision(cfg.precision, where)
    metrics = log.Metrics(folder / artifact.RUN / METRICS, first + 1) if dist.rank() == 0 else None
    means = _means(model, objective, where, dtype)
    fast = _compiled(model, cfg)
    peak = device.matmul_rate(where, dtype) * dist.world()
    began, tokens, flops = time.perf_counter(), 0, 0.0

    with log.progress(label, cfg.steps, first) as bar:
        for step in range(first, cfg.steps):
            batch = source(step)
            with _forwards(model, fast):
                sums = _backward(means, batch, cfg, where)
            dist.add([*(weight.grad for weight in model.parameters() if weight.grad is not None), *sums.values()])
            norm = torch.nn.utils.clip_grad_norm_(trained(model), cfg.clip)
            lr = cfg.lr * schedule(step, cfg.steps, cfg.warmup, cfg.decay)
            for update in updates:
                for group in update.param_groups:
                    group["lr"] = lr
                update.step()
                update.zero_grad()

            done = step + 1
            seen, cost = _size(model, batch)
            tokens, flops = tokens + seen, flops + cost
            due = {every for every in ("log", "eval", "save") if done % getattr(cfg, f"{every}_every") == 0 or done == cfg.steps}
            if due or where.type == "cpu":  # reading the loss makes a GPU wait
                _check_finite(sums, norm, done, folder)
            bar.advance(note=f"loss {_loss(sums):.3f}" if due else None)
            row = {}
            if "log" in due or "eval" in due:
                spent = time.perf_counter() - began
                row = {name: value.item() for name, value in sums.items()}
                row |= {"lr": lr, "grad_norm": norm.item(), "tokens_per_second": tokens / spent, "mfu": flops / spent / peak}
                if "eval" in due and held_out:
                    row |= _evaluate(means, held_out, cfg, where)
                if metrics:
                    metrics.write(done, **row)
            if "save" in due and dist.rank() == 0:
                checkpoint.save(folder, done, model, updates, dtype)
            if row:
                yield {"step": done, **row}
                began, tokens, flops = time.perf_counter(), 0, 0.0
    if metrics:
        metrics.close()


def results(folder: Path) -> dict[str, float]:
    """What a run came to: the last held-out numbers and the median speed. From disk, so a kill in between changes nothing."""
    rows = log.read_metrics(folder / artifact.RUN / METRICS)
    held_out = {name: value for row in rows for name, value in row.items() if name.startswith("val_")}
    speed, mfu = np.median([(row["tokens_per_second"], row["mfu"]) for row in rows], axis=0)
    return {**held_out, "tokens_per_second": round(float(speed), 1), "mfu": round(float(mfu), 4)}


Means = Callable[[Batch, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


def _means(model: Model, objective: Objective, where: torch.device, dtype: torch.dtype) -> Means:
    """(batch, total weights) -> the loss to differentiate, and this share's part of each term's weighted mean."""

    def means(batch: Batch, totals: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
            terms = objective(model, batch)
        parts = {}
        for name, term in terms.items():
            weight = "token_weight" if term.dim() == 2 else "row_weight"
            assert term.shape == batch[weight].shape, f"{name} {tuple(term.shape)} has no {weight} of its shape"
            parts[name] = (term.float() * batch[weight]).sum() / totals[weight]
        return torch.stack([part for name, part in parts.items() if name.endswith("loss")]).sum(), {k: v.detach() for k, v in parts.items()}

    return means


def _backward(means: Means, batch: Batch, cfg: FitConfig, where: torch.device) -> dict[str, Tensor]:
    """Gradients of the whole step's mean: this rank's rows, in micro-batches. Returns this rank's part of each mean."""
    sums: dict[str, Tensor] = {}
    totals = _totals([batch], where)
    if any(total <= 0 for total in totals.values()):
        raise ValueError("a step has no weight at all: every token of its rows is masked out")
    for part in _parts(batch, cfg, where, dist.rank(), dist.world()):
        loss, parts = means(part, totals)
        loss.backward()
        sums = {name: sums[name] + value if name in sums else value for name, value in parts.items()}
    return sums


def _totals(batches: Sequence[Batch], where: torch.device) -> dict[str, Tensor]:
    """The weight of all rows and of all tokens: what makes a mean independent of how its batches are split."""
    found = {"row_weight": sum(_row_weight(batch).sum() for batch in batches)}
    if "token_weight" in batches[0]:
        found["token_weight"] = sum(batch["token_weight"].sum() for batch in batches)
    return {name: torch.as_tensor(total).to(where) for name, total in found.items()}


def _parts(batch: Batch, cfg: FitConfig, where: torch.device, rank: int, ranks: int) -> Iterator[Batch]:
    """One rank's micro-batches of a step."""
    own = {name: column[rank::ranks].to(where) for name, column in {**batch, "row_weight": _row_weight(batch)}.items()}
    rows = len(own["row_weight"])
    size = cfg.micro_batch or max(rows, 1)
    for begin in range(0, rows, size):
        yield {name: column[begin : begin + size] for name, column in own.items()}


def _row_weight(batch: Batch) -> Tensor:
    """Where the data says nothing, rows count alike."""
    return batch["row_weight"] if "row_weight" in batch else torch.ones(len(next(iter(batch.values()))))


@torch.no_grad()
def _evaluate(means: Means, held_out: Sequence[Batch], cfg: FitConfig, where: torch.device) -> dict[str, float]:
    """Weighted mean of each term over all held-out batches, as val_TERM. Every rank reads all of them: there may be fewer rows than ranks."""
    totals = _totals(held_out, where)
    sums: dict[str, float] = {}
    for batch in held_out:
        for part in _parts(batch, cfg, where, 0, 1):
            for name, value in means(part, totals)[1].items():
                sums[name] = sums.get(name, 0.0) + value.item()
    return {f"val_{name}": value for name, value in sums.items()}


def _compiled(model: Model, cfg: FitConfig) -> list[Callable[..., Any]]:
    """A compiled forward for each block, or none. All blocks share one compilation: half the wait of compiling the whole step,
    at 2 % of its speed (docs/log.md)."""
    if not cfg.compile:
        return []
    if reason := device.compiles():
        log.say(f"training without torch.compile, slower: {reason}")
        return []
    return [torch.compile(block.forward, dynamic=False) for block in model.blocks]


@contextmanager
def _forwards(model: Model, fast: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Within the block the model runs compiled. Outside it, where texts are sampled in ever new shapes, it does not."""
    for block, forward in zip(model.blocks, fast, strict=False):
        block.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block, _ in zip(model.blocks, fast, strict=False):
            del block.forward


def _size(model: Model, batch: Batch) -> tuple[int, float]:
    """Tokens that a step reads, and the FLOPs that takes."""
    source = batch["source_tokens"].shape[1] if "source_tokens" in batch else 0
    predicted = batch["picked"].shape[1] if "picked" in batch else None
    texts = [column for name, column in batch.items() if name.endswith("tokens") and name != "source_tokens"]
    flops = sum(len(column) * count.row_flops(model.cfg, column.shape[1], source, predicted) for column in texts)
    return sum(len(column) * (column.shape[1] + source) for column in texts), flops


def _loss(sums: dict[str, Tensor]) -> float:
    return sum(value.item() for name, value in sums.items() if name.endswith("loss"))


def _check_finite(sums: dict[str, Tensor], norm: Tensor, done: int, folder: Path) -> None:
    if math.isfinite(_loss(sums)) and math.isfinite(norm.item()):
        return
    raise FloatingPointError(
        f"loss is {_loss(sums)} and gradient norm {norm.item()} at step {done}; the last good checkpoint is kept in {folder}. "
        "Lower lr, or look at the rows of this step"
    )
