"""Attention on CPU: PyTorch's scaled_dot_product_attention, all scores at once, and chunks of queries, compiled as in training.

    python benchmarks/attention.py [rounds]

Forward and backward of one layer, 8 query heads on 4 key-value heads of width 64. CPU time of one thread, methods interleaved: prints
the median of scaled_dot_product_attention in ms and, for the others, the median and range over rounds of their share of its time.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.model import attend as module
from bessemer.model.attend import See, attend, scores_mask, whole

HEADS, SHARED, WIDTH = 8, 4, 64
TOKENS = 2048  # of a step, in rows of each length
Method = Callable[[Tensor, Tensor, Tensor, See], Tensor]


class Case(NamedTuple):
    length: int
    dtype: torch.dtype
    kind: str  # causal, or documents: of 300 tokens on average, in one row; or window: the last 256 tokens; or bidirectional


CASES = [
    Case(256, torch.bfloat16, "causal"),
    Case(512, torch.bfloat16, "causal"),
    Case(512, torch.bfloat16, "documents"),
    Case(1024, torch.bfloat16, "causal"),
    Case(1024, torch.bfloat16, "documents"),
    Case(2048, torch.bfloat16, "causal"),
    Case(2048, torch.bfloat16, "documents"),
    Case(2048, torch.bfloat16, "window"),
    Case(2048, torch.bfloat16, "bidirectional"),
    Case(512, torch.float32, "causal"),
    Case(2048, torch.float32, "causal"),
    Case(2048, torch.float32, "documents"),
    Case(4096, torch.bfloat16, "causal"),
    Case(4096, torch.bfloat16, "documents"),
]


def sdpa(query: Tensor, key: Tensor, value: Tensor, see: See) -> Tensor:
    plain = see == See(causal=True)
    mask = None if plain else scores_mask(see, query.shape[2], key.shape[2])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=plain, enable_gqa=True)


def methods(length: int) -> dict[str, Method]:
    found: dict[str, Method] = {"sdpa": sdpa}
    if length <= 1024:
        found["whole"] = whole
    return {**found, **{f"chunks of {size}": attend for size in (64, 128, 256)}}


def see_of(case: Case, rows: int) -> See:
    if case.kind == "documents":
        number = (torch.rand(rows, case.length) < 1 / 300).cumsum(1) + 1
        return See(causal=True, segment=number, key_segment=number)
    return See(causal=case.kind != "bidirectional", window=256 if case.kind == "window" else 0)


def seconds(method: Method, size: int, inputs: list[Tensor], see: See) -> float:
    """CPU time of one forward and backward pass in chunks of `size`, where the method knows chunks."""
    module.CHUNK = size
    begin = time.process_time()
    out = method(*inputs, see)
    torch.autograd.grad(out, inputs, torch.ones_like(out))
    return time.process_time() - begin


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    torch.compiler.reset()
    torch.manual_seed(0)
    rows = max(1, TOKENS // case.length)
    see = see_of(case, rows)
    inputs = [torch.randn(rows, case.length, heads, WIDTH, dtype=case.dtype, requires_grad=True) for heads in (HEADS, SHARED, SHARED)]

    def layer(method: Method) -> Method:
        def forward(query: Tensor, key: Tensor, value: Tensor, see: See) -> Tensor:
            return method(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), see).transpose(1, 2).flatten(2)

        return torch.compile(forward, dynamic=False)

    compiled = {name: layer(method) for name, method in methods(case.length).items()}
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for turn in range(-1, rounds):  # the first compiles
        for name, method in compiled.items():
            took = seconds(method, int(name.split()[-1]) if name.startswith("chunks") else 0, inputs, see)
            if turn >= 0:
                times[name].append(took)
    return times


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(1)
    module.WHOLE_UP_TO = 0
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, {rounds} rounds")
    for case in CASES:
        times = measure(case, rounds)
        print(f"{case.length:>5} {str(case.dtype).split('.')[1]:<9} {case.kind:<14} sdpa {1000 * statistics.median(times['sdpa']):6.0f} ms", end="")
        for name in list(times)[1:]:
            shares = [ours / theirs for ours, theirs in zip(times[name], times["sdpa"], strict=True)]
            print(f"   {name} {statistics.median(shares):.2f} [{min(shares):.2f}, {max(shares):.2f}]", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
