"""Training throughput beside nanochat, litgpt and transformers' Trainer: a decoder of 12 M parameters, the same rows, the same allocator.

    python benchmarks/training.py [--rounds 5] [--steps 2] [--threads 1] [--only WORD ...] [--nanochat FOLDER] [--python PATH]

Every contestant is a process that lives through the whole run and takes its turn of a few steps, A B C ... A B C ..., and so do the bf16
and fp32 matrix products of this machine. Prints tokens per second of the contestant's own CPU time and of the clock, median and range over
the rounds; MFU, the FLOPs of this Llama over the rate of the bf16 products in the same round; "overhead", what a step takes beyond those
FLOPs at that rate; and how many times faster ours with AdamW is, round by round. On a machine that is shared with others only CPU time
means anything, and only with one thread.

Unless told otherwise it makes the peers' environment on first use, and fetches nanochat; --only picks peers by a part of their names.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
import training_peers
from training_peers import BATCH, CONTEXT, VOCAB

from bessemer.__main__ import MEMORY
from bessemer.core import device
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.scale import count
from bessemer.train.loop import FitConfig, fit
from bessemer.train.objective import predict

ROWS, SIDE, PRODUCTS = 1024, 2048, 10
SIZES = {"width": training_peers.WIDTH, "depth": training_peers.DEPTH, "heads": training_peers.HEADS, "kv_heads": training_peers.HEADS}
LLAMA = ModelConfig(vocab=VOCAB, context=CONTEXT, hidden=training_peers.HIDDEN, tied=False, **SIZES)
OURS = {"ours, AdamW": "adamw", "ours, Muon": "muon"}
PRODUCT = {"bf16 products": torch.bfloat16, "fp32 products": torch.float32}


@dataclass
class Contestant:
    name: str
    process: subprocess.Popen[str]
    about: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, float]] = field(default_factory=list)

    def take_turn(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.turns.append(self.said())

    def said(self) -> dict[str, Any]:
        """The next line of JSON that it prints; what else it prints is passed over."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} ended with status {self.process.wait()}")

    def speeds(self, clock: str, work: float) -> list[float]:
        """`work` per second, turn by turn."""
        return [work / turn[clock] for turn in self.turns]


def train(name: str, path: str, steps: int) -> None:
    """Ours: the ordinary fit with its defaults, which comes back after each turn."""
    model = Model(LLAMA)
    initialise(model, 0)
    rows, weight = torch.from_numpy(np.load(path)).long(), torch.ones(BATCH, CONTEXT)

    def source(step: int) -> dict[str, torch.Tensor]:
        part = rows[step * BATCH % ROWS :][:BATCH]
        return {"tokens": part[:, :-1].contiguous(), "targets": part[:, 1:].contiguous(), "token_weight": weight}

    cfg = FitConfig(steps=10**6, batch=BATCH, optimizer=OURS[name], log_every=steps, eval_every=10**6, save_every=10**6)
    with tempfile.TemporaryDirectory() as folder:
        run = fit(model, predict, source, cfg, Path(folder))
        for _ in training_peers.turns(1):
            next(run)


def multiply(dtype: torch.dtype) -> None:
    first, second = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    for _ in training_peers.turns(PRODUCTS):
        _ = first @ second


def start(given: argparse.Namespace, rows: Path) -> list[Contestant]:
    """Every contestant, warm: one after the other, so that none compiles while another does."""
    wanted = [name for name in training_peers.CONTESTANTS if not given.only or any(word in name for word in given.only)]
    there = given.python or peers.python("training")
    checkout = given.nanochat or peers.checkout("nanochat")
    commands: dict[str, list[Any]] = {name: [sys.executable, __file__, "--be", name] for name in (*PRODUCT, *OURS)}
    commands |= {name: [there, Path(__file__).with_name("training_peers.py"), name] for name in wanted}
    fixed = {**os.environ, **MEMORY, "OMP_NUM_THREADS": str(given.threads), "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    found = []
    for name, command in commands.items():
        own = {"NANOCHAT_DTYPE": "bfloat16"} if name.startswith("nanochat, bf16") else {}
        process = subprocess.Popen([*command, rows, str(given.steps)], env={**fixed, **own}, stderr=rows.with_suffix(".log").open("a"), **pipes)
        contestant = Contestant(name, process)
        contestant.about = contestant.said()
        found.append(contestant)
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in contestant.about.items())}", file=sys.stderr, flush=True)
    return found


def report(found: list[Contestant], given: argparse.Namespace) -> None:
    by_name = {contestant.name: contestant for contestant in found}
    tokens, flops = given.steps * BATCH * CONTEXT, count.training_flops(LLAMA, CONTEXT)
    work = dict.fromkeys(by_name, float(tokens)) | dict.fromkeys(PRODUCT, 2.0 * SIDE**3 * PRODUCTS)
    peak = by_name["bf16 products"].speeds("cpu", work["bf16 products"])
    ours = by_name["ours, AdamW"].speeds("cpu", tokens)
    print(
        f"{device.describe(torch.device('cpu'))}, {given.threads} threads, torch {torch.__version__}, {given.rounds} rounds of {given.steps} steps;"
    )
    print(f"{count.parameters(LLAMA):,} parameters, {flops / 1e6:.1f} MFLOP a token\n")
    for name in PRODUCT:
        print(f"{name}, {SIDE} wide: {spread([rate / 1e9 for rate in by_name[name].speeds('cpu', work[name])], '.0f')} GFLOP per CPU second")
    print("\n| contestant | tokens / CPU s | tokens / s of the clock | MFU | overhead, CPU s a step | ours is faster by |\n|---|---|---|---|---|---|")
    for name, contestant in by_name.items():
        if name not in PRODUCT:
            speeds = contestant.speeds("cpu", tokens)
            share = spread([speed * flops / most for speed, most in zip(speeds, peak, strict=True)], ".0%")
            overhead = spread([(tokens / speed - tokens * flops / most) / given.steps for speed, most in zip(speeds, peak, strict=True)], ".2f")
            ratio = spread([own / speed for own, speed in zip(ours, speeds, strict=True)], ".2f")
            print(f"| {name} | {spread(speeds, ',.0f')} | {spread(contestant.speeds('wall', tokens), ',.0f')} | {share} | {overhead} | {ratio} |")


def spread(values: list[float], form: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}-{max(values):{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="WORD")
    parser.add_argument("--nanochat", type=Path, metavar="FOLDER", help="a checkout of github.com/karpathy/nanochat")
    parser.add_argument("--python", type=Path, metavar="PATH", help="the interpreter of an environment that has the peers")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.be:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        if given.be in PRODUCT:
            multiply(PRODUCT[given.be])
        else:
            train(given.be, given.rest[0], int(given.rest[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npy"
        np.save(rows, np.random.default_rng(0).integers(0, VOCAB, (ROWS, CONTEXT + 1), dtype=np.int32))
        try:
            found = start(given, rows)
            for _ in range(given.rounds):
                for contestant in found:
                    contestant.take_turn()
        except SystemExit:
            print(rows.with_suffix(".log").read_text(encoding="utf-8")[-4000:], file=sys.stderr)
            raise
        report(found, given)
        for contestant in found:
            assert contestant.process.stdin
            contestant.process.stdin.close()
            contestant.process.wait()


if __name__ == "__main__":
    main()
