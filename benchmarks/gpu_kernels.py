"""Kernels of benchmarks/gpu.py: ways of attention and of the head with its cross-entropy, forward and backward, in bf16; and which of all
kernels take the time of a step."""

import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity

from bessemer.model.attend import See, attend, flex, fused, with_blocks
from bessemer.train import loss
from bessemer.train.loss import cross_entropy, head_cross_entropy

if TYPE_CHECKING:
    from gpu import Row, Run

Call = Callable[..., Tensor]
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
SHAPES = {"1B": (16, 16, 8, 2048, 128), "124M": (64, 12, 12, 1024, 64), "long": (2, 16, 8, 16384, 128)}  # B, H, K, T, D
TINY = {"1B": (2, 2, 1, 32, 16)}
HEADS = {"1B": (16384, 2048, 50304), "124M": (65536, 768, 50304)}  # N, C, V
TINY_HEADS = {"1B": (64, 32, 100)}


def items(run: "Run") -> dict[str, Callable[[], "Row"]]:
    found: dict[str, Callable[[], Row]] = {}
    heads = TINY_HEADS if run.tiny else HEADS
    for size, sizes in heads.items():
        for way in ("plain", "plain compiled", "chunked", "chunked x4", "chunked compiled", "chunked compiled x4"):
            if run.compile or "compiled" not in way:
                found[f"cross-entropy {size} {way}"] = partial(_head, run, way, *sizes)
    for size, shape in (TINY if run.tiny else SHAPES).items():
        for way in _ways(run):
            found[f"attention {size} {way}"] = partial(_attention, run, way, *shape)
    return found


def _ways(run: "Run") -> list[str]:
    """FlexAttention has no backward pass on CPU, and the backends are the GPU's."""
    if run.where.type == "cpu":
        return ["causal as in the model", "documents, mask"]
    causal = [f"causal {name}" for name in BACKENDS]
    return [*causal, "causal as in the model", "documents, mask", *(["causal flex", "documents flex", "block mask"] if run.compile else [])]


def _attention(run: "Run", way: str, rows: int, heads: int, shared: int, tokens: int, width: int) -> "Row":
    """TFLOP/s of the pairs that are seen: 2 products forward, 5 backward, with 2 FLOPs a pair and dimension each."""
    torch._dynamo.reset()
    draw = {"device": run.where, "dtype": torch.bfloat16, "requires_grad": True}
    query, key, value = (torch.randn(rows, number, tokens, width, **draw) for number in (heads, shared, shared))  # type: ignore[call-overload]
    segment = None
    if "documents" in way or way == "block mask":
        begins = torch.rand(rows, tokens, device=run.where) < 1 / 500
        begins[:, 0] = True
        segment = begins.long().cumsum(1)
    see = See(causal=True, segment=segment, key_segment=segment)
    if way == "block mask":  # what packed rows cost besides, once a forward pass
        from gpu import milliseconds

        return {"ms": milliseconds(run, lambda: with_blocks(see, rows, tokens, tokens, run.where))}
    pairs = rows * tokens * (tokens + 1) / 2 if segment is None else _pairs(segment)
    backend = BACKENDS.get(way.removeprefix("causal "))
    if way.endswith("flex"):
        call = torch.compile(flex, dynamic=False)
        see = with_blocks(see, rows, tokens, tokens, run.where) if segment is not None else see._replace(blocks=_causal(tokens, run.where))
    else:
        call = attend if way.endswith("model") else fused
        if segment is not None and rows * tokens**2 > 1 << 30:
            raise ValueError("a mask of all pairs is too large")

    def once() -> None:
        if backend is None:
            out = call(query, key, value, see)
        else:
            with sdpa_kernel(backend):
                out = call(query, key, value, see)
        torch.autograd.grad(out, (query, key, value), out.detach())

    return _measured(run, once, 7 * 2 * heads * width * pairs)


def _pairs(segment: Tensor) -> float:
    """Queries with the keys they may see."""
    lengths = torch.stack([torch.bincount(row, minlength=int(segment.max()) + 1) for row in segment]).double()
    return (lengths * (lengths + 1) / 2).sum().item()


def _causal(tokens: int, where: torch.device) -> object:
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(lambda row, head, query, key: key <= query, None, None, tokens, tokens, device=str(where))


def _head(run: "Run", way: str, places: int, width: int, words: int) -> "Row":
    """Hidden states to loss and back, as in training: bf16 products of an fp32 weight."""
    hidden = torch.randn(1, places, width, device=run.where, dtype=torch.bfloat16, requires_grad=True)
    weight = (0.02 * torch.randn(words, width, device=run.where)).requires_grad_()
    targets = torch.randint(0, words, (1, places), device=run.where)

    def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(F.linear(hidden, weight), targets)

    def chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return head_cross_entropy(hidden, weight, None, targets)

    torch._dynamo.reset()
    call = torch.compile(plain, dynamic=False) if way == "plain compiled" else chunked if "chunked" in way else plain
    # As the loop does it: the elementwise part compiled. And what larger chunks would bring.
    slope = torch.compile(loss.eager_slope, dynamic=False) if way.startswith("chunked compiled") else loss.eager_slope
    larger = {run.where.type: loss.CHUNK[run.where.type] * (4 if way.endswith("x4") else 1)}

    def once() -> None:
        with torch.autocast(run.where.type, torch.bfloat16), mock.patch.dict(loss.CHUNK, larger), mock.patch.object(loss, "slope", slope):
            out = call(hidden, weight, targets)
            torch.autograd.grad(out.sum(), (hidden, weight))

    return _measured(run, once, 6 * places * width * words)


def _measured(run: "Run", once: Callable[[], None], flops: float) -> "Row":
    from gpu import milliseconds

    spent = milliseconds(run, once)
    row: Row = {"ms": spent, "TFLOP/s": flops / spent / 1e9}
    if run.where.type == "cuda":
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        once()
        torch.cuda.synchronize()
        row["peak GB"] = (torch.cuda.max_memory_allocated() - held) / 1e9
    return row


KINDS = {  # of kernels, by parts of their names; the first that fits
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "matmul", "aten::mm", "aten::bmm", "aten::addmm", "mkldnn"),
    "copies": ("memcpy", "memset", "copy_"),
    "compiled elementwise": ("triton", "graph_", "cpp_fused"),
    "other elementwise": ("elementwise", "reduce", "vectorized", "aten::"),
}


def profile(run: "Run") -> "list[Row]":
    """Kernel time of a step of the 1B decoder by kind, its share of the step, and the slowest kernels of all. Mean of a few steps."""
    from gpu import line, training

    gpu, steps = run.where.type == "cuda", 3
    with training(run, "1B", run.best, steps) as (_, reports):
        list(islice(reports, 2))
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as seen:
            began = time.perf_counter()
            next(reports)
            wall = 1000 * (time.perf_counter() - began) / steps
    attribute = "self_device_time_total" if gpu else "self_cpu_time_total"
    times = {one.key: getattr(one, attribute) / 1000 / steps for one in seen.key_averages()}
    kinds = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for name, spent in times.items():
        kinds[next((kind for kind, parts in KINDS.items() if any(part in name.lower() for part in parts)), "the rest")] += spent
    rows: list[Row] = [{"name": kind, "ms": spent, "share": spent / wall} for kind, spent in kinds.items()]
    rows += [{"name": "no kernel running", "ms": wall - sum(times.values()), "share": 1 - sum(times.values()) / wall}, {"name": "step", "ms": wall}]
    slowest = sorted(times.items(), key=lambda item: -item[1])[:12]
    rows += [{"name": f"kernel {name[:90]}", "ms": spent, "share": spent / wall} for name, spent in slowest]
    for row in rows:
        print(line(row))
    return rows
