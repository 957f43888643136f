"""Every choice of the model, one at a time, on one corpus with one budget: what it learns, how fast it trains, what memory that takes.

    python benchmarks/architectures.py [--documents artifacts/quickstart/dedup] [--store FOLDER] [--seeds 3] [--steps 80] [--rounds 3]
    python benchmarks/architectures.py --speed --rounds 9

A row of the table differs from the first in the fields that ROWS names, and in `hidden`, which is set so that a token meets as many
parameters. Each row and seed trains in a process of its own, one thread each. Speed is measured apart, with all threads: short runs, all
rows in turn, then all again. What is done is kept in STORE/results.jsonl, and the same command goes on from there;
after a change of the code, name another STORE. Prints a Markdown table.

--speed: whole models of attention, RWKV-7 and LSTM with equal parameters at context 512, compiled, the steps of their training loops in turn.
"""

import argparse
import dataclasses
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from bessemer.__main__ import MEMORY
from bessemer.core import artifact, device, jsonl, log, recipe
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.scale import count
from bessemer.stages import find
from bessemer.stages.pretrain import PretrainConfig, pretrain
from bessemer.stages.tokenizer import TokenizerConfig
from bessemer.stages.tokens import TokensConfig
from bessemer.train.loop import METRICS, FitConfig, fit
from bessemer.train.objective import predict

VOCAB, HELD_OUT = 2048, 128  # windows of 256 tokens that nobody trains on
SIZES = {"width": 128, "depth": 4, "heads": 4, "kv_heads": 2, "hidden": 352, "context": 256}
BASE: dict[str, Any] = {**SIZES, "batch": 8, "lr": 4e-3, "embed_lr": 1.0, "beta1": 0.9, "momentum": 0.95, "decay": 0.4}
MOE = {"ffn": "moe", "experts": 8, "top_k": 2}
RWKV: dict[str, Any] = {"mixer": "rwkv", "position": "none", "ffn": "channel", "norm": "layer", "embed_norm": True}
LSTM: dict[str, Any] = {"mixer": "lstm", "position": "none"}
ROWS: dict[str, dict[str, Any]] = {
    "decoder: grouped-query attention, RoPE, SwiGLU, RMSNorm before": {},
    "multi-head attention": {"kv_heads": 4},
    "multi-query attention": {"kv_heads": 1},
    "window of 64 tokens": {"window": 64},
    "QK-norm": {"qk_norm": True},
    "RWKV-7": {**RWKV, "heads": 2, "kv_heads": 2},
    "RWKV-4": {**RWKV, "mixer": "rwkv4", "ffn": "channel4"},
    "LSTM": LSTM,
    "no positions": {"position": "none"},
    "learned positions": {"position": "learned"},
    "sinusoidal positions": {"position": "sinusoidal"},
    "relative positions (Shaw)": {"position": "relative"},
    "relative bias (T5)": {"position": "bias"},
    "GELU": {"ffn": "dense", "act": "gelu"},
    "squared ReLU": {"ffn": "dense", "act": "relu2"},
    "8 experts, 2 chosen, balanced by a loss": MOE,
    "8 experts, 2 chosen, balanced by a bias": {**MOE, "router": "sigmoid", "balance": "bias"},
    "8 experts, 1 chosen, 1 shared": {**MOE, "top_k": 1, "shared_experts": 1, "norm_topk": False},
    "LayerNorm before": {"norm": "layer"},
    "RMSNorm after": {"norm_at": "post"},
    "LayerNorm after": {"norm": "layer", "norm_at": "post"},
    "one more token predicted": {"ahead": 1},
    "prefix decoder": {"objective": "prefix", "prefix": True},
    "encoder, masked tokens": {"objective": "masked", "shape": "encoder"},
    # 232 tokens of source are 256 tokens of text with its spans hidden.
    "encoder-decoder, hidden spans": {"objective": "spans", "shape": "encdec", "depth": 2, "context": 232},
}
BASELINE = next(iter(ROWS))
SPEED = ModelConfig(vocab=4096, width=256, depth=4, context=512)
SPEED_ROWS: dict[str, dict[str, Any]] = {"attention": {}, "RWKV-7": {**RWKV, "kv_heads": 4}, "LSTM": LSTM}
SPEED_BATCH, WARM, TIMED = 8, 3, 6  # rows, and steps before and within what is timed


def matched(cfg: ModelConfig, base: ModelConfig) -> int:
    """The hidden width, a multiple of 8, with which a token meets as many parameters as in `base`. Blocks that only training has do not count."""
    sizes = [count.active_parameters(dataclasses.replace(cfg, hidden=hidden, ahead=0)) for hidden in (8, 16)]
    steps = (count.active_parameters(base) - sizes[0]) / (sizes[1] - sizes[0])  # it grows linearly
    if steps < 0:
        raise ValueError(f"{cfg.mixer}, {cfg.ffn}: there are more than {count.active_parameters(base):,} parameters without any feed-forward")
    return 8 + 8 * round(steps)


def configured(fields: Mapping[str, Any], steps: int, seed: int, **others: Any) -> PretrainConfig:
    """A row's config, its `hidden` matched to the first row."""
    cfg = PretrainConfig(**{**BASE, **fields, "steps": steps, "seed": seed, "samples": (), "held_out": HELD_OUT, "compile": False, **others})
    return dataclasses.replace(cfg, hidden=matched(cfg.model(VOCAB), PretrainConfig(**BASE).model(VOCAB)))


@dataclass(frozen=True)
class Job:
    """One training run. `key`: equal for equal work."""

    key: str
    cfg: PretrainConfig
    tokens: Path
    tokenizer: Path
    threads: int


def train(job: Job) -> dict[str, Any]:
    """Run a job, in a process that nothing else has used. Memory: the most that was resident, without what was there before."""
    torch.set_num_threads(job.threads)
    log.console.quiet = True
    before, began = resident("VmRSS"), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        numbers = pretrain(job.tokens, job.tokenizer, out=Path(folder), cfg=job.cfg)
        speeds = [row["tokens_per_second"] for row in log.read_metrics(Path(folder) / artifact.RUN / METRICS)]
    numbers["tokens_per_second"] = statistics.median(speeds[WARM:] or speeds)
    return {"key": job.key, "cpu_seconds": time.process_time() - began, "memory": resident("VmHWM") - before, **numbers}


def resident(field: str) -> float:
    """Bytes of this process: VmRSS now, VmHWM at most. A child's ru_maxrss would begin at its parent's."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return math.nan
    return next(1024.0 * int(line.split()[1]) for line in status.read_text("utf-8").splitlines() if line.startswith(f"{field}:"))


def finish(jobs: Sequence[Job], work: Callable[[Any], dict[str, Any]], file: Path, workers: int) -> dict[str, dict[str, Any]]:
    """The result of each job by its key, from `file` where it was done before, else from `work` in `workers` processes at a time."""
    done = {row["key"]: row for row in jsonl.read(file)} if file.is_file() else {}
    left = [job for job in jobs if job.key not in done]
    context = multiprocessing.get_context("forkserver")  # each run starts from the same clean process, which has imported all
    context.set_forkserver_preload(["architectures"])
    pool = ProcessPoolExecutor(workers, context, max_tasks_per_child=1)
    try:
        runs = [pool.submit(work, job) for job in left]
        for run in log.track(as_completed(runs), "runs", len(left)):
            done[run.result()["key"]] = run.result()
            jsonl.write(file, done.values())
    finally:
        pool.shutdown(cancel_futures=True)
    return done


def corpus(documents: Path, store: Path) -> tuple[Path, Path]:
    """A tokens artifact of these documents and its tokenizer. The quickstart's documents are made where they are missing."""
    if not documents.exists() and documents == Path("artifacts/quickstart/dedup"):
        steps = recipe.load(Path("recipes/quickstart.toml"), find)
        last = [step.name for step in steps].index("dedup")
        recipe.run(steps[: last + 1], documents.parents[1], documents.parent)
    inputs: dict[str, Any] = {"documents": (documents,)}
    words = artifact.make(find("tokenizer"), inputs, TokenizerConfig(vocab=VOCAB, masks=True, sentinels=32), store / "tokenizer")
    return artifact.make(find("tokens"), inputs | {"tokenizer": words}, TokensConfig(held_out=0.1), store / "tokens"), words


def jobs_of(tokens: Path, tokenizer: Path, seeds: int, steps: int, rounds: int) -> tuple[dict[str, list[Job]], dict[str, list[Job]]]:
    """The runs of each row: those that learn, one a seed; and those that are timed, one a round, in the order of the rounds."""
    stage = find("pretrain")

    def job(fields: Mapping[str, Any], steps: int, number: int, threads: int, **others: int) -> Job:
        cfg = configured(fields, steps, number, eval_every=steps, save_every=steps, **others)
        key = artifact.key_of(stage, {"tokens": tokens, "tokenizer": tokenizer}, cfg)
        return Job(f"{key}, {threads} threads", cfg, tokens, tokenizer, threads)

    learn = {name: [job(fields, steps, seed, 1, log_every=steps) for seed in range(seeds)] for name, fields in ROWS.items()}
    short = {"steps": WARM + TIMED, "threads": torch.get_num_threads(), "held_out": 1, "log_every": 1}
    timed = {name: [job(fields, number=number, **short) for number in range(rounds)] for name, fields in ROWS.items()}
    return learn, timed


def estimate(values: Sequence[float], form: str) -> str:
    """The mean, and half its 95 % confidence interval by Student's t where there are several values."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return format(statistics.mean(values), form) + ("" if half is None else f" ± {half:.3f}")


def bits(result: Mapping[str, float]) -> float:
    """Bits per byte of a run; of objectives that do not predict every byte, bits per predicted token."""
    return result["val_bits_per_byte"] if "val_bits_per_byte" in result else result["val_loss"] / math.log(2)


def table(done: Mapping[str, dict[str, Any]], learn: Mapping[str, list[Job]], timed: Mapping[str, list[Job]]) -> str:
    """A line for each row. Differences and ratios are of runs with the same seed or round."""
    lines = [
        "| architecture | hidden | parameters, M (met by a token) | bits per byte | against the first | tokens/s | to the first | memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first = [bits(done[job.key]) for job in learn[BASELINE]]
    fastest = [done[job.key]["tokens_per_second"] for job in timed[BASELINE]]
    for name, jobs in learn.items():
        results, cfg = [done[job.key] for job in jobs], jobs[0].cfg
        found = [bits(result) for result in results]
        whole, active = (size(dataclasses.replace(cfg.model(VOCAB), ahead=0)) / 1e6 for size in (count.parameters, count.active_parameters))
        comparable = cfg.objective == "next"
        speeds = [done[job.key]["tokens_per_second"] for job in timed[name]]
        ratios = [speed / other for speed, other in zip(speeds, fastest, strict=True)]
        cells = [
            name,
            str(cfg.hidden),
            f"{whole:.2f}" + (f" ({active:.2f})" if whole != active else ""),
            estimate(found, ".3f") + ("" if comparable else " a token*"),
            estimate([a - b for a, b in zip(found, first, strict=True)], "+.3f") if comparable and name != BASELINE else "",
            f"{statistics.median(speeds):,.0f}",
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]",
            f"{statistics.median(result['memory'] for result in results) / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def speed(rounds: int) -> None:
    """Steps of whole models' training loops in turn: attention's time over each other's is that one's share of attention's tokens per second."""
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it would go on uncompiled, unsaid
    draw = torch.Generator().manual_seed(0)
    begins = torch.rand(SPEED_BATCH, SPEED.context, generator=draw) < 1 / 200  # documents of 200 tokens or so
    begins[:, 0] = True
    place = torch.arange(SPEED.context).expand(SPEED_BATCH, -1)
    ids = torch.randint(SPEED.vocab, (SPEED_BATCH, SPEED.context + 1), generator=draw)
    batch = {"tokens": ids[:, :-1], "targets": ids[:, 1:], "token_weight": torch.ones(ids[:, 1:].shape)}
    batch |= {"at": place - (place * begins).cummax(1).values, "segment": begins.long().cumsum(1)}
    configs = {name: dataclasses.replace(SPEED, **fields) for name, fields in SPEED_ROWS.items()}
    configs = {name: dataclasses.replace(cfg, hidden=matched(cfg, SPEED)) for name, cfg in configs.items()}
    print("| precision | model | parameters | wall, ms a step | CPU, ms a step | tokens/s | to attention by wall | by CPU |")
    print("|---|---|---|---|---|---|---|---|")
    for precision in ("fp32", "bf16"):
        torch.compiler.reset()
        cfg = FitConfig(steps=WARM + rounds + 1, batch=SPEED_BATCH, precision=precision, log_every=1, eval_every=10**6, save_every=10**6)
        with tempfile.TemporaryDirectory() as folder:
            loops: dict[str, Iterator[dict[str, Any]]] = {}
            for name, shape in configs.items():
                initialise(model := Model(shape), 0)
                loops[name] = fit(model, predict, lambda step: batch, cfg, Path(folder) / name)
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
            for turn in range(WARM + rounds):
                for name, loop in loops.items():
                    wall, cpu = time.perf_counter(), time.process_time()
                    next(loop)
                    if turn >= WARM:
                        times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        for name, found in times.items():
            cells = [precision, name, f"{count.parameters(configs[name]):,}"]
            cells += [f"{1e3 * statistics.median(column):.0f}" for column in zip(*found, strict=True)]
            cells.append(f"{batch['tokens'].numel() / statistics.median(wall for wall, _ in found):,.0f}")
            for which in (0, 1):
                ratios = [theirs[which] / own[which] for theirs, own in zip(times["attention"], found, strict=True)]
                cells.append(f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
            print(f"| {' | '.join(cells)} |", flush=True)


def as_command_line() -> None:
    """Start anew with the command line's settings of memory, which are worth 10 to 20 % of training speed."""
    if sys.platform == "linux" and not any(name in os.environ for name in MEMORY):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **MEMORY})


def main() -> None:
    as_command_line()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, default=Path("artifacts/quickstart/dedup"))
    parser.add_argument("--store", type=Path, default=Path("artifacts/architectures"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--speed", action="store_true")
    args = parser.parse_args()
    where = torch.device("cpu")
    print(f"{device.describe(where)}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    if args.speed:
        speed(args.rounds)
        return
    learn, timed = jobs_of(*corpus(args.documents, args.store), args.seeds, args.steps, args.rounds)
    file = args.store / "results.jsonl"
    finish([job for jobs in learn.values() for job in jobs], train, file, os.cpu_count() or 1)
    done = finish([job for turn in zip(*timed.values(), strict=True) for job in turn], train, file, 1)
    print(table(done, learn, timed))
    print("\n\\* bits per predicted token, which do not compare: these see more of the text around it. An encoder-decoder's speed counts both texts.")


if __name__ == "__main__":
    main()
