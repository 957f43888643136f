"""What a small decoder learns from the same tokens, and in the same time, by our recipes, by nanochat's, and by Llama with AdamW.

    python benchmarks/recipes.py --text FOLDER --held-out FOLDER --nanochat CHECKOUT [--store FOLDER] [--seeds 3] [--steps 585]
        [--width 256] [--depth 4] [--workers 1]

Both folders hold .txt files, each a document. All recipes read the same rows in the same order, of one tokenizer, and are measured in bits
per byte on the same held-out text. nanochat's model, optimizer and rules are its own (a checkout of karpathy/nanochat); its rates follow
its rule for the batch, and in a second line those of the batch it was tuned on. A run is a process of its own with one thread. Each recipe
but nanochat's then trains once more for as many steps as take the CPU seconds of nanochat's run, loading and compiling aside.

What is done is kept in STORE/results.jsonl, and the same command goes on from there; after a change of the code, name another STORE. Prints
a Markdown table; intervals are of paired differences over seeds (Student's t, 95 %).
"""

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from architectures import as_command_line, estimate, finish
from torch import Tensor

from bessemer.core import device, log
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.stages.tokenizer import TokenizerConfig, train
from bessemer.tokenizer import files
from bessemer.tokenizer.tokenizer import Tokenizer
from bessemer.train.loop import FitConfig, fit
from bessemer.train.objective import predict

VOCAB, CONTEXT, BATCH, HEAD, WARM = 4096, 256, 8, 64, 5  # WARM: first steps, which compile and are not timed
OURS: dict[str, Any] = {"qk_norm": True, "tied": False}  # of Qwen3's layout, so others' tools open it
MUON: dict[str, Any] = {"optimizer": "muon", "lr": 4e-3, "embed_lr": 5.0, "beta1": 0.8, "momentum": 0.9, "decay": 0.65}
RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what each says of the model and of its training, beside the defaults
    "Bessemer, default": (OURS, MUON),
    "Bessemer, mix": ({**OURS, "value_embed": True, "embed_skip": True, "zero_out": True}, MUON),
    "Llama with AdamW": ({"tied": False}, {"optimizer": "adamw", "lr": 3e-3, "schedule": "cosine", "final": 0.1}),
}
NANOCHAT = {"nanochat": True, "nanochat, rates unscaled": False}  # whether its rates follow its rule for the batch
PEER = "nanochat"
Rows = Callable[[int], tuple[Tensor, Tensor]]  # the tokens (B, T) of a step, and their successors


@dataclass(frozen=True)
class Run:
    """One training run of a recipe."""

    recipe: str
    width: int
    depth: int
    steps: int
    seed: int
    store: Path
    nanochat: Path

    @property
    def key(self) -> str:
        settings = RECIPES.get(self.recipe, NANOCHAT.get(self.recipe))
        text = (self.store / "sizes.json").read_text("utf-8")
        said = json.dumps([self.recipe, settings, self.width, self.depth, self.steps, self.seed, text])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def prepare(text: Path, held_out: Path, store: Path) -> None:
    """Write both texts as tokens into `store`, and how many bytes they have. ValueError where a folder holds no text."""
    names = {"train": text, "held_out": held_out}
    found = {name: [file.read_text("utf-8") for file in sorted(folder.rglob("*.txt"))] for name, folder in names.items()}
    for name, documents in found.items():
        if not documents:
            raise ValueError(f"{names[name]} holds no .txt files")
    store.mkdir(parents=True, exist_ok=True)
    if not (store / "tokenizer").is_dir():
        files.save(train(found["train"], TokenizerConfig(vocab=VOCAB)), store / "tokenizer")
    words, sizes = Tokenizer.load(store / "tokenizer"), {}
    for name, documents in found.items():
        order = np.random.default_rng(0).permutation(len(documents))  # else a source would follow another
        encoded = words.encode_batch([documents[i] for i in order])
        ids = np.concatenate([[*document, words.end_of_text] for document in encoded]).astype(np.int64)
        np.save(store / f"{name}.npy", ids)
        sizes[name] = {"bytes": sum(len(document.encode()) for document in documents), "tokens": len(ids)}
    (store / "sizes.json").write_text(json.dumps(sizes), "utf-8")


def rows_of(store: Path, seed: int) -> Rows:
    """Rows of CONTEXT tokens in an order that the seed draws; each once, then all again."""
    ids = np.load(store / "train.npy")
    order = np.random.default_rng(seed).permutation((len(ids) - 1) // CONTEXT)

    def rows(step: int) -> tuple[Tensor, Tensor]:
        begins = [CONTEXT * order[(step * BATCH + row) % len(order)] for row in range(BATCH)]
        cut = torch.from_numpy(np.stack([ids[begin : begin + CONTEXT + 1] for begin in begins]))
        return cut[:, :-1].contiguous(), cut[:, 1:].contiguous()

    return rows


def held_out(store: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """The held-out text once, in batches; targets behind its end are -1."""
    ids = np.load(store / "held_out.npy")
    rows = -(-(len(ids) - 1) // CONTEXT)
    rows += -rows % BATCH
    tokens, targets = np.zeros(rows * CONTEXT, np.int64), np.full(rows * CONTEXT, -1)
    tokens[: len(ids) - 1], targets[: len(ids) - 1] = ids[:-1], ids[1:]
    whole = (torch.from_numpy(column).view(-1, BATCH, CONTEXT) for column in (tokens, targets))
    yield from zip(*whole, strict=True)


def ours(run: Run) -> tuple[Callable[[Tensor, Tensor], Tensor], float, int]:
    """Train by one of RECIPES: what gives the nats of each held-out target, CPU seconds of the steps, parameters."""
    shape, training = RECIPES[run.recipe]
    heads = run.width // HEAD
    sizes = {"width": run.width, "depth": run.depth, "heads": heads, "kv_heads": heads, "hidden": 11 * run.width // 4, "context": CONTEXT}
    model, rows = Model(ModelConfig(vocab=VOCAB, **{**sizes, **shape})), rows_of(run.store, run.seed)
    initialise(model, run.seed)

    def source(step: int) -> dict[str, Tensor]:
        tokens, targets = rows(step)
        return {"tokens": tokens, "targets": targets, "token_weight": torch.ones(targets.shape)}

    quiet: dict[str, Any] = {"log_every": 1, "eval_every": 10**9, "save_every": 10**9}
    cfg = FitConfig(**{"steps": run.steps, "batch": BATCH, "seed": run.seed, **quiet, **training})
    with tempfile.TemporaryDirectory() as folder:
        times = [time.process_time() for _ in fit(model, predict, source, cfg, Path(folder))]
    dtype = device.precision(cfg.precision, torch.device("cpu"))

    def nats(tokens: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return predict(model, {"tokens": tokens, "targets": targets.clamp(min=0)})["loss"] * (targets >= 0)

    return nats, _seconds(times, run.steps), sum(weight.numel() for weight in model.parameters())


def nanochat(run: Run) -> tuple[Callable[[Tensor, Tensor], Tensor], float, int]:
    """The same by nanochat's own model and optimizer, and the rules that its scripts/base_train.py applies to them, as of July 2026."""
    os.environ["NANOCHAT_DTYPE"] = str(device.precision("auto", torch.device("cpu"))).removeprefix("torch.")
    sys.path.insert(0, str(run.nanochat))
    from nanochat.gpt import GPT, GPTConfig  # type: ignore[import-not-found]

    def build(depth: int, heads: int, width: int) -> Any:
        with torch.device("meta"):
            cfg = {"sequence_len": CONTEXT, "vocab_size": VOCAB, "n_layer": depth, "n_head": heads, "n_kv_head": heads, "n_embd": width}
            return GPT(GPTConfig(**cfg, window_pattern="L"))

    def counted(model: Any) -> int:
        return sum(weight.numel() for weight in [*model.transformer.h.parameters(), model.lm_head.weight])

    torch.manual_seed(run.seed)
    model = build(run.depth, run.width // HEAD, run.width).to_empty(device="cpu")
    model.init_weights()
    scaled = (BATCH * CONTEXT / 2**19) ** 0.5 if NANOCHAT[run.recipe] else 1.0
    decay = 0.28 * (scaled * counted(build(12, 6, 768)) / counted(model) if NANOCHAT[run.recipe] else 1.0)
    rates = {"unembedding_lr": 0.008, "embedding_lr": 0.3, "scalar_lr": 0.5, "matrix_lr": 0.02}
    optimizer = model.setup_optimizer(**{name: rate * scaled for name, rate in rates.items()}, weight_decay=decay)
    fast, rows, times = torch.compile(model, dynamic=False), rows_of(run.store, run.seed), []
    for step in range(run.steps):
        fast(*rows(step)).backward()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * _rate(step, run.steps)
            if group["kind"] == "muon":
                group["momentum"] = _momentum(step, run.steps)
                group["weight_decay"] = decay * 0.5 * (1 + math.cos(math.pi * step / run.steps))
        optimizer.step()
        model.zero_grad(set_to_none=True)
        times.append(time.process_time())

    def nats(tokens: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = model(tokens, targets, loss_reduction="none")
        return found

    return nats, _seconds(times, run.steps), sum(weight.numel() for weight in model.parameters())


def _rate(step: int, steps: int) -> float:
    """nanochat's schedule: 40 steps up, the last 65 % down to a twentieth."""
    left = (steps - step) / round(0.65 * steps)
    return (step + 1) / 40 if step < 40 else 1.0 if left >= 1 else left + (1 - left) * 0.05


def _momentum(step: int, steps: int) -> float:
    """Muon's momentum in nanochat: from 0.85 to 0.97 in 400 steps, later to 0.9 while the rate falls."""
    left = (steps - step) / round(0.65 * steps)
    return 0.85 + 0.12 * step / 400 if step < 400 else 0.97 if left >= 1 else 0.97 * left + 0.9 * (1 - left)


def _seconds(times: Sequence[float], steps: int) -> float:
    """CPU seconds of all steps, by those after the first, which compile, and before the last, which saves."""
    return (times[-2] - times[WARM - 1]) * steps / (len(times) - 1 - WARM)


def work(run: Run) -> dict[str, Any]:
    """Train, and measure bits per byte of the held-out text."""
    torch.set_num_threads(1)
    log.console.quiet = True
    nats, seconds, parameters = (nanochat if run.recipe in NANOCHAT else ours)(run)
    with torch.no_grad():
        total = sum(nats(tokens, targets).double().sum().item() for tokens, targets in held_out(run.store))
    size = json.loads((run.store / "sizes.json").read_text("utf-8"))["held_out"]["bytes"]
    said = {name: str(value) for name, value in asdict(run).items()}
    return {**said, "key": run.key, "bits_per_byte": total / math.log(2) / size, "cpu_seconds": seconds, "parameters": parameters}


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each recipe. Differences are of runs with the same seed."""
    lines = ["| recipe | parameters, M | steps | CPU s | bits per byte | against nanochat |", "|---|---|---|---|---|---|"]
    first = found[PEER]
    for name, runs in found.items():
        bits = [run["bits_per_byte"] for run in runs]
        against = [a - b["bits_per_byte"] for a, b in zip(bits, first, strict=True)]
        cells = [name, f"{runs[0]['parameters'] / 1e6:.2f}", " ".join(dict.fromkeys(run["steps"] for run in runs))]
        cells += [f"{sum(run['cpu_seconds'] for run in runs) / len(runs):.0f}", estimate(bits, ".3f")]
        lines.append(f"| {' | '.join([*cells, '' if name == PEER else estimate(against, '+.3f')])} |")
    return "\n".join(lines)


def main() -> None:
    as_command_line()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--nanochat", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=Path("artifacts/recipes"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=585)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    prepare(args.text, args.held_out, args.store)

    def trained(steps: dict[str, list[int]]) -> dict[str, list[dict[str, Any]]]:
        """The results of each recipe, one a seed. Seeds go in turn, so that an interrupted benchmark has whole rows."""
        fixed = {"width": args.width, "depth": args.depth, "store": args.store, "nanochat": args.nanochat}
        runs = {name: [Run(name, steps=n, seed=seed, **fixed) for seed, n in enumerate(each)] for name, each in steps.items()}
        turns = [run for seeds in zip(*runs.values(), strict=True) for run in seeds]
        done = finish(turns, work, args.store / "results.jsonl", args.workers)
        return {name: [done[run.key] for run in each] for name, each in runs.items()}

    print(f"{device.describe(torch.device('cpu'))}, torch {torch.__version__}, {(args.store / 'sizes.json').read_text('utf-8')}")
    equal = trained({name: [args.steps] * args.seeds for name in (PEER, *RECIPES, *NANOCHAT)})
    print(f"\nThe same tokens:\n\n{table(equal)}", flush=True)
    seconds = [run["cpu_seconds"] for run in equal[PEER]]
    timed = {name: [round(args.steps * s / run["cpu_seconds"]) for s, run in zip(seconds, equal[name], strict=True)] for name in RECIPES}
    print(f"\nThe same CPU time:\n\n{table({PEER: equal[PEER], **trained(timed)})}")


if __name__ == "__main__":
    main()
