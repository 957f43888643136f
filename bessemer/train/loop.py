"""The training loop. There is one: what differs between methods is the source and the objective."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import checkpoint as recomputing

from bessemer.core import artifact, config, device, dist, launch, log
from bessemer.core.config import Count, Positive, Whole, runtime
from bessemer.model.model import Model
from bessemer.train import fp8, loss
from bessemer.train.feed import Source, feed, moved
from bessemer.train.guard import Guard, GuardConfig
from bessemer.train.means import Means, total, totals, weighed
from bessemer.train.objective import Batch, Objective
from bessemer.train.optimizers.average import Average
from bessemer.train.optimizers.optimizer import OptimizerConfig, build, schedule
from bessemer.train.parallel.mesh import MeshConfig
from bessemer.train.parallel.spread import Spread, spread
from bessemer.train.report.meter import Meter, MeterConfig, Sizes
from bessemer.train.report.trackers import METRICS, Trackers
from bessemer.train.resume.checkpoint import Checkpoints

Swap = tuple[Any, str, Callable[..., Any]]  # what has a function, its name there, and what takes its place


@dataclass(frozen=True)
class FitConfig(MeterConfig, GuardConfig, OptimizerConfig):
    steps: Count = 1000
    batch: Count = 16  # rows per step, over all ranks
    clip: Positive = 1.0  # largest gradient norm
    precision: device.Precision = "auto"  # of matrix products; weights and optimizer state are fp32
    seed: Whole = 0
    micro_batch: Whole = runtime(0)  # rows at a time per rank; 0: all of them
    recompute: bool = runtime(False)  # keep only what enters each block for the backward pass, and compute the rest again
    compile: bool = runtime(True)
    mesh: MeshConfig = runtime(MeshConfig())  # how several processes share out a step
    log_every: Count = runtime(10)  # steps
    eval_every: Count = runtime(100)
    save_every: Count = runtime(100)


def fit(
    model: Model, objective: Objective, source: Source, cfg: FitConfig, folder: Path, held_out: Sequence[Batch] = (), label: str = "train"
) -> Iterator[dict[str, Any]]:
    """Train `model` in place for `cfg.steps` steps, going on from the last checkpoint in `folder`.

    Yields a row of numbers at each report, so that the caller can look at the model in between; the same rows stand in
    run/metrics.jsonl. Of several ranks only rank 0 yields, and only its `model` is whole. SIGTERM saves and exits with 143.
    FloatingPointError when the steps go bad (GuardConfig); the last good checkpoint stays.
    """
    run = _begin(model, objective, cfg, folder, label)
    shared, steps, stop = run.shared, range(run.first, cfg.steps), False
    with closing(run), _stoppable() as stopping, log.progress(label, cfg.steps, run.first) as bar:
        for step, share in zip(steps, feed(source, steps, shared.rows, model.cfg, shared.where), strict=True):
            torch.manual_seed(cfg.seed + (step << 20) + shared.rows[0])  # what an objective draws is a matter of the step, too
            done = step + 1
            due = {every for every in ("log", "eval", "save") if done % getattr(cfg, f"{every}_every") == 0 or done == cfg.steps}
            with _swapped(run.fast):
                sums = shared.add(shared.backward(share.batch, share.totals, cfg.micro_batch, run.guard.factor))
            norm = shared.norm() / run.guard.scale
            bad = run.guard.judge(total(sums), norm, done)
            sizes, rate = Sizes(run.updates) if "log" in due else None, schedule(step, cfg.steps, cfg)
            _move(run.updates, rate, bad, run.guard.scale * (norm / cfg.clip).clamp(min=1.0))
            run.average.update(bad)
            run.meter.add(share.tokens, share.flops)

            skipped = run.guard.check(folder) if due or shared.where.type == "cpu" else {}  # looking makes a GPU wait
            bar.advance(note=f"loss {total(sums).item():.3f}" if due else None)
            stop = dist.any_of(stopping.is_set())
            row: dict[str, float] = {}
            if due & {"log", "eval"}:
                row = {name: value.item() for name, value in sums.items()}
                row |= {"lr": cfg.lr * rate, "grad_norm": norm.item(), **skipped, **(sizes.now() if sizes else {}), **run.meter.numbers()}
                with run.average.swapped():
                    if "eval" in due:
                        row |= _evaluate(shared, held_out)
                        shared.gather(model)
                if run.trackers:
                    run.trackers.write(done, row)
            # After the row: a step that is kept has been reported, whatever comes in between.
            if "save" in due or stop:
                run.checkpoints.save(done, shared.parts, run.updates, run.states())
            if stop:
                break
            if row:
                with run.average.swapped():
                    if run.trackers:
                        yield {"step": done, **row}
                run.meter.begin()
    if stop:
        log.say(f"{label}: stopped at step {done} of {cfg.steps}; the same command continues from here")
        raise SystemExit(launch.STOPPED)
    run.average.swap()
    shared.gather(model)
    fp8.restore(model)
    dist.wait()


@dataclass
class _Run:
    """What `fit` works with."""

    shared: Spread  # the model, or this rank's share of it
    updates: list[torch.optim.Optimizer]
    average: Average
    guard: Guard
    meter: Meter
    checkpoints: Checkpoints
    trackers: Trackers | None  # of rank 0
    fast: list[Swap]
    first: int  # steps that are done

    def states(self) -> dict[str, Any]:
        """What a checkpoint keeps beside weights and optimizers."""
        about = config.plain(self.shared.whole.model.cfg)  # so that a checkpoint can be opened by itself
        return {"average": self.average.state_dict(), "guard": self.guard.state_dict(), "meter": self.meter.state_dict(), "model": about}

    def close(self) -> None:
        """Wait for the writer of checkpoints. What went wrong before matters more than what goes wrong here."""
        try:
            self.checkpoints.close()
        finally:
            if self.trackers:
                self.trackers.close()


def _begin(model: Model, objective: Objective, cfg: FitConfig, folder: Path, label: str) -> _Run:
    """Everything set up, and what the last checkpoint holds restored."""
    dist.start()
    where = device.pick()
    dtype = device.DTYPES[_precision(cfg, folder, where, model.cfg.width)]
    half = device.autocast(dtype)
    if half != dtype:
        fp8.swap(model)
    shared = spread(Means(model, objective, half), cfg, where)
    if cfg.batch < shared.rows[1]:
        raise ValueError(f"batch {cfg.batch} has no row for each of the {shared.rows[1]} ranks that read different ones")
    updates = build(cfg, shared.parts, half)
    average, guard, meter = Average(shared.parts, cfg.ema), Guard(cfg, where, dtype), Meter(cfg, where, dtype, dist.world())
    run = _Run(shared, updates, average, guard, meter, Checkpoints(folder), None, _fast(shared.parts, cfg), 0)
    run.first, kept = run.checkpoints.load(shared.parts, updates, run.states())
    for name in ("average", "guard", "meter") if kept else ():
        getattr(run, name).load_state_dict(kept[name])
    if dist.rank() == 0:
        run.trackers = Trackers(folder, cfg, run.first, label, config.plain(cfg))
    return run


def results(folder: Path) -> dict[str, float]:
    """What a run came to: the last held-out numbers and the median speed. From disk, so a kill in between changes nothing."""
    rows = log.read_metrics(folder / artifact.RUN / METRICS)
    held_out = {name: value for row in rows for name, value in row.items() if name.startswith("val_")}
    speed, mfu = np.median([(row["tokens_per_second"], row["mfu"]) for row in rows], axis=0)
    return {**held_out, "tokens_per_second": round(float(speed), 1), "mfu": round(float(mfu), 4)}


def _move(updates: Sequence[torch.optim.Optimizer], rate: float, bad: Tensor, divisor: Tensor) -> None:
    """One step of all optimizers at `rate` times their peak; none where `bad` is 1. Gradients are divided by `divisor`."""
    for update in updates:
        update.found_inf, update.grad_scale = bad, divisor  # type: ignore[attr-defined]
        for group in update.param_groups:
            group["lr"] = group["initial_lr"] * rate
        update.step()
        update.zero_grad()


def _precision(cfg: FitConfig, folder: Path, where: torch.device, width: int) -> str:
    """The precision of a run: the one it began with, whatever a second measurement would choose; the same on every rank."""
    note = folder / artifact.RUN / "resume" / "precision"
    if dist.rank() == 0 and not note.is_file():
        note.parent.mkdir(parents=True, exist_ok=True)
        with artifact.atomic(note) as temporary:
            chosen = device.precision(cfg.precision, where, width)
            temporary.write_text(next(name for name, dtype in device.DTYPES.items() if dtype == chosen))
    return dist.agree(note.read_text() if dist.rank() == 0 else "")


@torch.no_grad()
def _evaluate(shared: Spread, held_out: Sequence[Batch]) -> dict[str, float]:
    """Weighted mean of each term over all held-out batches, as val_TERM. Every rank reads all of them: there may be fewer rows than ranks."""
    batches = [weighed(batch) for batch in held_out]
    weights = moved(totals(batches), shared.where) if batches else {}
    sums: dict[str, Tensor] = {}
    for batch in batches:
        for name, value in shared.means(moved(batch, shared.where), weights).items():
            sums[name] = sums[name] + value if name in sums else value
    return {f"val_{name}": value.item() for name, value in sums.items()}


def _fast(parts: Sequence[Model], cfg: FitConfig) -> list[Swap]:
    """What a step runs in another form: each block compiled, and recomputed where that is wanted; the loss of the head compiled. All blocks
    share one compilation: half the wait of compiling the whole step, at 2 % of its speed (docs/log.md)."""
    reason = device.compiles() if cfg.compile else "not asked for"
    if cfg.compile and reason:
        log.say(f"training without torch.compile, slower: {reason}")
    torch.compiler.reset()  # what earlier runs of this process compiled counts against this one's limit
    found: list[Swap] = []
    for block in (block for part in parts for block in part.blocks):
        forward = block.forward if reason else torch.compile(block.forward, dynamic=False)
        if cfg.recompute:
            forward = partial(recomputing.checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
        found.append((block, "forward", forward))
    if not reason and cfg.mesh.tensor == 1:  # else ranks talk to each other in it
        found.append((loss, "slope", torch.compile(loss.eager_slope, dynamic=False)))
    return found if cfg.recompute or not reason else []


@contextmanager
def _swapped(fast: Sequence[Swap]) -> Iterator[None]:
    """Within the block the step runs in its fast form. Outside it, where texts are sampled in ever new shapes, it does not."""
    before = [vars(owner).get(name) for owner, name, _ in fast]
    for owner, name, function in fast:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for (owner, name, _), was in zip(fast, before, strict=True):
            setattr(owner, name, was) if was else delattr(owner, name)


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that a machine that is taken away costs no work. Not outside the main thread, where no signal arrives."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
