"""Checks of benchmarks/gpu.py: what the device computes, against the CPU in fp32, whole scores and plain formulas there.

An error is the distance of two tensors, or lists of them, over the size of the second. Limits: fp32 differs by the order of sums; bf16
rounds each value by up to 2^-9, fp16 by 2^-12, fp8 by 2^-4, and errors of many add up to a few times that in a small model.
"""

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.core import device
from bessemer.decode.generate import generate
from bessemer.decode.sample import Sampling
from bessemer.model.attend import See, attend, whole, with_blocks
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.train import fp8
from bessemer.train.loop import FitConfig, fit
from bessemer.train.loss import cross_entropy, head_cross_entropy
from bessemer.train.means import Means, totals, weighed
from tests.train import runs

if TYPE_CHECKING:
    from gpu import Row, Run

CPU = torch.device("cpu")
SMALL = ModelConfig(vocab=64, width=64, depth=2, heads=4, kv_heads=2, hidden=128, context=256)
LIMITS = {"fp32": 2e-4, "bf16": 0.03, "fp8": 0.2}  # of gradients
LOSS_LIMITS = {"fp16": 0.05, "bf16": 0.01, "fp8": 0.03}  # of losses, which average what gradients do not; fp16 may skip a step to find its scale
NEVER = 10**9


def checks(run: "Run") -> dict[str, Callable[[], "Row"]]:
    """Those that matter most come first."""
    gpu = run.where.type == "cuda"

    eight = ["fp8"] if run.eight else []
    compiled = gpu and run.compile
    found: dict[str, Callable[[], Row]] = {}
    for name in ("fp32", "bf16"):
        found[f"decoder {name}"] = partial(_decoder, run, name, compile=False)
    for name in ["fp32", "bf16", *eight] if run.compile else []:
        found[f"decoder {name} compiled"] = partial(_decoder, run, name, compile=True)
    for kind in ("causal", "documents", "window", "prefix"):
        found[f"attention {kind}"] = partial(_attention, run, kind, compile=False)
        if compiled:  # FlexAttention has no backward pass on CPU
            found[f"attention {kind} compiled"] = partial(_attention, run, kind, compile=True)
    for dtype in (torch.float32, torch.bfloat16):
        found[f"cross-entropy {str(dtype)[6:]}"] = partial(_cross_entropy, run, dtype)
    found["generation"] = partial(_generation, run)
    found["fit adamw fp32"] = partial(_fit, run, 1e-3, precision="fp32")
    found["fit muon fp32"] = partial(_fit, run, 0.02, precision="fp32", optimizer="muon")  # its products are bf16 in any case
    found["fit micro-batches, blocks recomputed"] = partial(_fit, run, 1e-3, precision="fp32", micro_batch=3, recompute=True)
    found["fit 8-bit states"] = partial(_fit, run, 0.02, precision="fp32", state_bits=8)
    for name in ["bf16", *(["fp16"] if gpu else []), *eight]:
        found[f"fit {name}"] = partial(_fit, run, LOSS_LIMITS[name], precision=name)
    if eight:
        found["fp8 products"] = partial(_fp8, run)
    for name in runs.RUNS:
        found[f"shape {name}"] = partial(_shape, run, name)
    for name in ("experts", "rwkv") if gpu else ():
        found[f"shape {name} bf16"] = partial(_shape, run, name, "bf16")
    return found


def _judged(found: Iterable[Tensor], wanted: Iterable[Tensor], limit: float) -> "Row":
    """The largest error of the pairs. Gradients that are next to nothing are measured against the largest."""
    pairs = [(one.detach().cpu().double(), other.detach().cpu().double()) for one, other in zip(found, wanted, strict=True)]
    floor = 1e-3 * max(other.norm() for _, other in pairs)
    error = max(((one - other).norm() / torch.maximum(other.norm(), floor)).item() for one, other in pairs)
    return {"error": error, "limit": limit, "right": error <= limit}  # NaN is not right


def _gradients(model: Model, objective: Callable, batch: dict[str, Tensor], where: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The loss and every gradient of a copy of the model on `where`."""
    model = copy.deepcopy(model).to(where).train()
    batch = {name: column.to(where) for name, column in weighed(batch).items()}
    if dtype.itemsize == 1:
        fp8.swap(model)
    if getattr(model, "fast", False):
        for block in model.blocks:
            block.forward = torch.compile(block.forward, dynamic=False)  # type: ignore[method-assign]
    loss, _ = Means(model, objective, device.autocast(dtype))(batch, totals([batch]))
    loss.backward()
    return [loss, *(weight.grad for weight in model.parameters() if weight.grad is not None)]


def _decoder(run: "Run", precision: str, compile: bool) -> "Row":
    """Loss and gradients of a decoder on rows of several documents."""
    torch._dynamo.reset()
    model, batch = Model(SMALL), _rows(SMALL)
    initialise(model, 0)
    wanted = _gradients(model, runs.predict, batch, CPU, torch.float32)
    model.fast = compile  # type: ignore[assignment]
    return _judged(_gradients(model, runs.predict, batch, run.where, device.DTYPES[precision]), wanted, LIMITS[precision])


def _rows(cfg: ModelConfig) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, cfg.vocab, (4, cfg.context + 1), generator=draw)
    place = torch.arange(cfg.context)
    cut = torch.randint(20, cfg.context - 20, (4, 1), generator=draw)
    columns = {"segment": 1 + (place >= cut).long(), "at": place - cut * (place >= cut), "token_weight": torch.rand(4, cfg.context, generator=draw)}
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:], **columns}


def _attention(run: "Run", kind: str, compile: bool) -> "Row":
    """Outputs and gradients against all scores at once on the CPU, in fp32: GQA, D = 64, a length that fills no block."""
    torch._dynamo.reset()
    draw = torch.Generator().manual_seed(0)
    query, key, value, slope = (torch.randn(2, heads, 300, 64, generator=draw) for heads in (4, 2, 2, 4))
    segment = torch.tensor([1] * 90 + [2] * 170 + [0] * 40).expand(2, -1) if kind != "causal" else None
    prefix = (torch.arange(300) % 90 < 20).expand(2, -1) if kind == "prefix" else None
    see = See(causal=True, window=50 if kind == "window" else 0, segment=segment, key_segment=segment, prefix=prefix)

    def both_ways(call: Callable[..., Tensor], where: torch.device) -> list[Tensor]:
        mine = [one.to(where).requires_grad_() for one in (query, key, value)]
        there = See(*(part.to(where) if isinstance(part, Tensor) else part for part in see))
        if where.type == "cuda":
            there = with_blocks(there, 2, 300, 300, where)
        out = call(*mine, there)
        return [out, *torch.autograd.grad(out, mine, slope.to(where))]

    return _judged(both_ways(torch.compile(attend, dynamic=False) if compile else attend, run.where), both_ways(whole, CPU), 2e-3)


def _cross_entropy(run: "Run", dtype: torch.dtype) -> "Row":
    """Loss and gradients in chunks on the device against the plain formula on the CPU. The vocabulary is no round number."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(4, 100, 64, generator=draw), 0.2 * torch.randn(1003, 64, generator=draw)
    targets, share = torch.randint(0, 1003, (4, 100), generator=draw), torch.rand(4, 100, generator=draw)

    def both_ways(where: torch.device, chunked: bool) -> list[Tensor]:
        mine = [one.to(where).requires_grad_() for one in (hidden, weight)]
        with torch.autocast(where.type, dtype, enabled=chunked and dtype != torch.float32):
            there = targets.to(where)
            found = head_cross_entropy(mine[0], mine[1], None, there) if chunked else cross_entropy(F.linear(*mine), there)
        return [found, *torch.autograd.grad((found * share.to(where)).sum(), mine)]

    return _judged(both_ways(run.where, True), both_ways(CPU, False), LIMITS["fp32" if dtype == torch.float32 else "bf16"])


def _generation(run: "Run") -> "Row":
    """Greedy answers to prompts of different lengths, in fp32, id by id."""
    model = Model(replace(SMALL, context=64, tied=False)).eval()  # tied and large, it would repeat its last word for ever
    initialise(model, 0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.dim() == 2 else 1)  # scores that differ by more than rounding
    prompts = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8]]
    answers = [generate(model.to(where), prompts, Sampling(temperature=0.0, max_tokens=24), stop=set()) for where in (CPU, run.where)]
    same = sum(one == other for one, other in zip(*answers, strict=True))
    return {"same": f"{same} of {len(prompts)}", "right": same == len(prompts) and len({*answers[0][0]}) > 1}


def _fit(run: "Run", limit: float, **settings: object) -> "Row":
    """Losses of eight steps of `fit`, each after the first a matter of optimizer, schedule and clipping too, against AdamW or Muon in fp32
    on the CPU, all rows at once."""
    plain = {name: value for name, value in settings.items() if name == "optimizer"}
    return _judged([_losses(run.where, **settings)], [_losses(CPU, precision="fp32", **plain)], limit)


def _losses(where: torch.device, **settings: object) -> Tensor:
    model = Model(replace(runs.SMALL, head_width=16, hidden=64))
    initialise(model, 0)
    cfg = FitConfig(steps=8, batch=8, compile=False, log_every=1, eval_every=NEVER, save_every=NEVER, lr=1e-2, **settings)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder, _on(where), mock.patch.object(device, "_check_fp8"):
        return torch.tensor([row["loss"] for row in fit(model, runs.predict, runs.packed, cfg, Path(folder), label="check")])


@contextmanager
def _on(where: torch.device) -> Iterator[None]:
    """`fit` picks the device by itself."""
    with mock.patch.object(device, "pick", lambda: where), torch.cuda.device(where) if where.type == "cuda" else nullcontext():
        yield


def _fp8(run: "Run") -> "Row":
    """A linear map in fp8 on the device against the same roundings on the CPU: only the order of sums differs, and Hopper's fast one."""
    torch.manual_seed(0)
    layer, x, slope = torch.nn.Linear(256, 512, bias=False), torch.randn(512, 256), torch.randn(512, 512)
    layer.__class__ = fp8.Linear8

    def both_ways(where: torch.device) -> list[Tensor]:
        there, mine = copy.deepcopy(layer).to(where), x.to(where).requires_grad_()
        with torch.autocast(where.type, torch.bfloat16):
            out = there(mine)
        return [out, *torch.autograd.grad(out, (mine, there.weight), slope.to(where, out.dtype))]

    return _judged(both_ways(run.where), both_ways(CPU), 0.01)


def _shape(run: "Run", name: str, precision: str = "fp32") -> "Row":
    """Loss and gradients of each architecture of the tests."""
    _, objective, source = runs.RUNS[name]
    dtype = device.DTYPES[precision]
    wanted = _gradients(runs.model(name), objective, source(0), CPU, torch.float32)
    # In bf16 a near tie sends a token to another expert: the loss then differs little, single experts' gradients much.
    of = slice(None, 1) if precision == "bf16" else slice(None)
    return _judged(_gradients(runs.model(name), objective, source(0), run.where, dtype)[of], wanted[of], (LIMITS | LOSS_LIMITS)[precision])
