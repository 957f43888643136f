"""Reading further than trained: each position scheme trained on 128 tokens, and its bits per byte at every position up to 1024.

    python benchmarks/extrapolation.py [--store FOLDER] [--seeds 2] [--steps 300] [--plot docs/extrapolation.svg]

Models and corpus are those of architectures.py; the budget is larger, since a model that has learned little looks only at the last few
tokens, and reads on as well as before. RoPE is also read with its angles scaled for four times the context, without any
further training. Held-out text comes in whole windows of 1025 tokens of one document. What is done is kept in STORE/extrapolation.jsonl,
and the same command goes on from there. Prints a Markdown table, means and ranges over the seeds, and draws the plot.
"""

import argparse
import dataclasses
import itertools
import math
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from architectures import LSTM, ROWS, VOCAB, Job, as_command_line, configured, corpus, finish
from matplotlib import rc_context
from matplotlib.figure import Figure

from bessemer.core import artifact, device, log
from bessemer.data import tokens as token_file
from bessemer.model import weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model
from bessemer.stages import find
from bessemer.stages.pretrain import pretrain
from bessemer.tokenizer.tokenizer import Tokenizer

TRAINED, READ, FACTOR = 128, 1024, 4.0
# `reach` is half of what is trained, so that every distance beyond shares a place that was learned.
SCHEMES: dict[str, dict[str, Any]] = {
    "none": {"position": "none"},
    "learned": {"position": "learned"},
    "sinusoidal": {"position": "sinusoidal"},
    "relative (Shaw)": {"position": "relative", "reach": TRAINED // 2},
    "bias (T5)": {"position": "bias", "reach": TRAINED // 2},
    "RoPE": {},
    "RWKV-7": ROWS["RWKV-7"],
    "LSTM": LSTM,
}
SCALED = {"RoPE, linear x 4": "linear", "RoPE, NTK x 4": "ntk", "RoPE, YaRN x 4": "yarn"}
EDGES = [0, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024]  # of the plot's points
SPANS = [(0, 128), (128, 256), (256, 512), (512, 1024)]  # of the table's columns
COLOURS = {
    "none": "#8b949e",
    "learned": "#d4a017",
    "sinusoidal": "#e36209",
    "relative (Shaw)": "#a371f7",
    "bias (T5)": "#2da44e",
    "RoPE": "#2f81f7",
    "RWKV-7": "#e5534b",
    "LSTM": "#d16d9e",
}
DASHES = {"RoPE, linear x 4": ":", "RoPE, NTK x 4": "--", "RoPE, YaRN x 4": "-."}
INK = "#768390"  # legible on white and on black


def measure(job: Job) -> dict[str, Any]:
    """Train a scheme, then read the held-out windows with it, and as RoPE with each scaling: bits and bytes of each of EDGES' spans."""
    torch.set_num_threads(job.threads)
    log.console.quiet = True
    with tempfile.TemporaryDirectory() as folder:
        pretrain(job.tokens, job.tokenizer, out=Path(folder), cfg=job.cfg)
        model = weights.load(Path(folder))
    ways: dict[str, dict[str, Any]] = {"": {}}
    if job.cfg.mixer == "attention" and job.cfg.position == "rope":
        ways |= {name: {"rope_scaling": way, "rope_factor": FACTOR, "rope_context": TRAINED} for name, way in SCALED.items()}
    ids = windows(job.tokens)
    widths = torch.tensor(Tokenizer.load(job.tokenizer).token_bytes(), dtype=torch.float64)
    sizes = spans(widths[ids[:, 1:]].sum(0))
    return {"key": job.key, "windows": len(ids), "bytes": sizes, "bits": {name: spans(read(model, cfg, ids)) for name, cfg in ways.items()}}


def windows(folder: Path) -> torch.Tensor:
    """(N, READ + 1) held-out ids, each row from one document."""
    rows = []
    for file in token_file.load_all(folder, "val", VOCAB).values():
        for begin, end in zip(file.offsets[:-1], file.offsets[1:], strict=True):
            rows += [file.ids[at : at + READ + 1].astype(np.int64) for at in range(begin, end - READ, READ)]
    if not rows:
        raise ValueError(f"{folder}: no held-out document has {READ + 1} tokens: give longer documents")
    return torch.from_numpy(np.stack(rows))


@torch.inference_mode()
def read(model: Model, changes: Mapping[str, Any], ids: torch.Tensor) -> torch.Tensor:
    """(READ,) bits that the targets at each position cost in all rows; NaN where the model refuses so long a text."""
    other = Model(dataclasses.replace(model.cfg, **changes)).eval()
    other.load_state_dict(model.state_dict())
    length = limit(other.cfg)
    bits = torch.full((READ,), math.nan, dtype=torch.float64)
    bits[:length] = 0
    for rows in ids.split(2):
        logits = other.logits(other(rows[:, :length]))
        bits[:length] += F.cross_entropy(logits.transpose(1, 2), rows[:, 1 : length + 1], reduction="none").double().sum(0) / math.log(2)
    return bits


def limit(cfg: ModelConfig) -> int:
    """How many of READ tokens a model accepts."""
    with torch.inference_mode():
        try:
            Model(cfg)(torch.zeros(1, READ, dtype=torch.long))
        except ValueError:
            return cfg.context
    return READ


def spans(values: torch.Tensor) -> list[float]:
    return [values[low:high].sum().item() for low, high in itertools.pairwise(EDGES)]


def curves(done: Mapping[str, dict[str, Any]], jobs: Mapping[str, list[Job]]) -> dict[str, np.ndarray]:
    """(seeds, spans, 2) bits and bytes of each scheme, RoPE's scalings after it."""
    found: dict[str, np.ndarray] = {}
    for name, own in jobs.items():
        results = [done[job.key] for job in own]
        for way in results[0]["bits"]:
            found[way or name] = np.array([list(zip(result["bits"][way], result["bytes"], strict=True)) for result in results])
    return found


def per_byte(curve: np.ndarray, low: int, high: int) -> list[float]:
    """Bits per byte of the positions from `low` to `high`, one a seed."""
    which = [low <= edge < high for edge in EDGES[:-1]]
    bits, sizes = curve[:, which].sum(1).T
    return (bits / sizes).tolist()


def table(found: Mapping[str, np.ndarray]) -> str:
    lines = [f"| positions | {' | '.join(f'{low} to {high}' for low, high in SPANS)} |", "|---" * (len(SPANS) + 1) + "|"]
    for name, curve in found.items():
        values = [per_byte(curve, *span) for span in SPANS]
        cells = ["refused" if math.isnan(v[0]) else f"{statistics.mean(v):.3f} [{min(v):.3f}, {max(v):.3f}]" for v in values]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: Mapping[str, np.ndarray], file: Path) -> None:
    """Bits per byte over the position, one line a scheme, on a transparent ground."""
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "bessemer",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
    }
    with rc_context({**style, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot()
        middle = [(low + high) / 2 for low, high in itertools.pairwise(EDGES)]
        for name, curve in found.items():
            values = (curve[..., 0].sum(0) / curve[..., 1].sum(0)).tolist()
            axes.plot(middle, values, DASHES.get(name, "-"), color=COLOURS[name.partition(",")[0]], linewidth=1.6, label=name)
        drawn = np.concatenate([line.get_ydata() for line in axes.get_lines()])
        best = float(np.nanmin(drawn))
        axes.set_ylim(best - 0.1, min(float(np.nanmax(drawn)), best + 2) + 0.1)  # what leaves the plot has broken down
        axes.axvline(TRAINED, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        axes.annotate(" trained up to here", (TRAINED, 1), xycoords=("data", "axes fraction"), va="top", fontsize=9)
        axes.set_xscale("log", base=2)
        ticks = [8, 32, 128, 256, 512, 1024]
        axes.set_xticks(ticks, list(map(str, ticks)))
        axes.minorticks_off()
        axes.set_xlabel("position in the text, tokens")
        axes.set_ylabel("bits per byte")
        axes.grid(color=INK, alpha=0.25, linewidth=0.6)
        figure.legend(loc="outside right center", frameon=False, fontsize=9)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def jobs_of(tokens: Path, tokenizer: Path, seeds: Sequence[int], steps: int) -> dict[str, list[Job]]:
    """The runs of each scheme, one a seed."""
    inputs = {"tokens": tokens, "tokenizer": tokenizer}
    found: dict[str, list[Job]] = {}
    for name, fields in SCHEMES.items():
        runs = {"context": TRAINED, "batch": 16, "log_every": steps, "eval_every": steps, "save_every": steps}
        configs = [configured({**fields, **runs}, steps, seed) for seed in seeds]
        found[name] = [Job(artifact.key_of(find("pretrain"), inputs, cfg), cfg, tokens, tokenizer, 1) for cfg in configs]
    return found


def main() -> None:
    as_command_line()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, default=Path("artifacts/quickstart/dedup"))
    parser.add_argument("--store", type=Path, default=Path("artifacts/architectures"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--plot", type=Path, default=Path("docs/extrapolation.svg"))
    args = parser.parse_args()
    jobs = jobs_of(*corpus(args.documents, args.store), range(args.seeds), args.steps)
    done = finish([job for own in jobs.values() for job in own], measure, args.store / "extrapolation.jsonl", os.cpu_count() or 1)
    found = curves(done, jobs)
    rows = done[jobs["RoPE"][0].key]["windows"]
    print(f"{device.describe(torch.device('cpu'))}, torch {torch.__version__}, {args.seeds} seeds, {rows} windows of {READ} tokens\n")
    print(table(found))
    plot(found, args.plot)


if __name__ == "__main__":
    main()
