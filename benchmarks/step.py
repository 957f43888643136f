"""Training steps of the quickstart's decoder: bf16 and fp32, compiled and eager, interleaved in one process.

    python benchmarks/step.py [rounds]

Prints tokens per second and the fraction of the measured matrix-product rate (MFU) as median and range over the rounds.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from bessemer.core import device
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.scale import count
from bessemer.train.loop import FitConfig, fit
from bessemer.train.objective import predict

MODEL = ModelConfig(vocab=4096, width=256, depth=4)
ROWS, STEPS, WARM = 8, 10, 4
VARIANTS = {
    "bf16 compiled": {"precision": "bf16", "compile": True},
    "bf16 eager": {"precision": "bf16", "compile": False},
    "fp32 compiled": {"precision": "fp32", "compile": True},
}


def source(step: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, MODEL.vocab, (ROWS, MODEL.context + 1), generator=torch.Generator().manual_seed(step))
    at = torch.arange(MODEL.context).expand(ROWS, -1)
    same = {"at": at, "segment": torch.ones_like(at), "token_weight": torch.ones(ROWS, MODEL.context)}
    return {"tokens": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous(), **same}


def measure(settings: dict) -> float:
    """Tokens per second of STEPS steps after WARM steps, in a run of its own."""
    model = Model(MODEL)
    initialise(model, 0)
    with tempfile.TemporaryDirectory() as folder:
        cfg = FitConfig(steps=WARM + STEPS, batch=ROWS, log_every=1, save_every=10_000, **settings)
        times = [time.perf_counter() for _ in fit(model, predict, source, cfg, Path(folder), label="step")]
    return STEPS * ROWS * MODEL.context / (times[-2] - times[WARM - 2])  # the last step also writes a checkpoint


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    where = device.pick()
    rates = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, settings in VARIANTS.items():
            rates[name].append(measure(settings))
    print(f"{device.describe(where)}, {torch.get_num_threads()} threads, torch {torch.__version__}, {count.parameters(MODEL):,} parameters")
    for name, found in rates.items():
        dtype = torch.bfloat16 if name.startswith("bf16") else torch.float32
        peak = device.matmul_rate(where, dtype)
        middle = statistics.median(found)
        mfu = middle * count.training_flops(MODEL, MODEL.context) / peak
        print(f"{name:<14} {middle:8.0f} tokens/s [{min(found):.0f}, {max(found):.0f}]  MFU {mfu:.2f} of {peak / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
