"""A block of RWKV-7 beside one of attention with as many parameters: forward and backward at context 512 on packed
documents, as the training loop runs them.

    python benchmarks/recurrent_rwkv.py [rounds]

Rounds are interleaved and take processor time, so that a busy machine slows both alike. Prints milliseconds (median, range), and how
many of attention's tokens per second RWKV reaches.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.core import device
from bessemer.model.attend import See
from bessemer.model.config import ModelConfig
from bessemer.model.model import Block
from bessemer.model.position import rotary
from bessemer.model.seen import Pass

ROWS, CONTEXT = 8, 512
ATTENTION = ModelConfig(vocab=1, width=256, depth=4, context=CONTEXT)
# 768: within 1 % of as many parameters.
RWKV = dataclasses.replace(ATTENTION, mixer="rwkv", position="none", kv_heads=4, ffn="channel", act="relu2", norm="layer", hidden=768)


def parameters(block: Block) -> int:
    return sum(weight.numel() for weight in block.parameters())


def step(block: Block, cfg: ModelConfig, dtype: torch.dtype, compiled: bool) -> Callable[[], None]:
    """One forward and backward pass of random activations."""
    draw = torch.Generator().manual_seed(0)
    x, first = (torch.randn(ROWS, CONTEXT, cfg.width, generator=draw, requires_grad=True) for _ in range(2))
    at = torch.arange(CONTEXT)[None]
    turn = rotary(at, cfg) if cfg.position == "rope" else None
    segment = (torch.rand(ROWS, CONTEXT, generator=draw) < 1 / 128).cumsum(-1)  # packed documents of about 128 tokens
    begins = F.pad(segment.diff(dim=-1) > 0, (1, 0), value=True)
    seen = Pass(at, See(causal=True, segment=segment, key_segment=segment), turn=turn, begins=begins)
    forward = torch.compile(block.forward, dynamic=False) if compiled else block.forward

    def run() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out: Tensor = forward(x, seen, None, first.to(dtype) if cfg.mixer == "rwkv" else None)[0]
        out.float().square().mean().backward()

    return run


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    torch.manual_seed(0)
    blocks = {"attention": (Block(ATTENTION, 1), ATTENTION), "rwkv": (Block(RWKV, 1), RWKV)}
    print(f"{device.describe(torch.device('cpu'))}, {torch.get_num_threads()} threads, torch {torch.__version__}, {ROWS} x {CONTEXT} tokens")
    print(", ".join(f"{name} {parameters(block):,} parameters" for name, (block, _) in blocks.items()))
    for dtype in (torch.bfloat16, torch.float32):
        for compiled in (True, False):
            runs = {name: step(block, cfg, dtype, compiled) for name, (block, cfg) in blocks.items()}
            times: dict[str, list[float]] = {name: [] for name in runs}
            for turn in range(rounds + 2):
                for name, run in runs.items():
                    began = time.process_time()
                    run()
                    if turn >= 2:  # the first two compile and warm up
                        times[name].append(time.process_time() - began)
            shares = [a / b for a, b in zip(*times.values(), strict=True)]
            spread = {name: f"{statistics.median(t) * 1e3:.0f} ms ({min(t) * 1e3:.0f}-{max(t) * 1e3:.0f})" for name, t in times.items()}
            rate = f"{statistics.median(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})"
            print(str(dtype)[6:], "compiled" if compiled else "eager", spread, "rwkv / attention, tokens per second:", rate, flush=True)


if __name__ == "__main__":
    main()
