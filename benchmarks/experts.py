"""The mixture of experts beside its alternatives: forward and backward of one feed-forward on 4096 tokens, interleaved in one process.

    python benchmarks/experts.py [rounds] [--compile]

Each line is the CPU time of a dense gated feed-forward with the same FLOPs a token (its hidden width is top_k times an expert's), then the
time of each way to run the experts as a multiple of it: median and range of the rounds' ratios.

    ours       sorted tokens, grouped_mm          loop      sorted tokens, a linear map per expert, autograd
    padded     sorted tokens, one bmm of blocks padded to the busiest expert
    hf loop    transformers' MixtralSparseMoeBlock, experts_implementation eager      hf group    the same, grouped_mm
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from bessemer.core import device
from bessemer.model import moe
from bessemer.model.config import ModelConfig
from bessemer.model.ffn import Gated
from bessemer.model.seen import Pass

ROWS, TOKENS, WIDTH = 8, 512, 256
SIZES = [(8, 2, 256), (8, 2, 704), (32, 4, 256), (32, 4, 704)]  # experts, top_k, hidden
SEEN = Pass(torch.arange(TOKENS)[None], None)  # type: ignore[arg-type]  # experts do not look at it
Forward = Callable[[Tensor], Tensor]


def loop(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
    return torch.cat([F.linear(part, matrix) for part, matrix in zip(x.split(sizes), weight.unbind(), strict=True)])


def padded(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
    out = torch.bmm(nn.utils.rnn.pad_sequence(list(x.split(sizes)), batch_first=True), weight.transpose(1, 2))
    return torch.cat([part[:size] for part, size in zip(out, sizes, strict=True)])


def instead(product: Callable[..., Tensor], experts: moe.Experts, x: Tensor) -> Tensor:
    with mock.patch.object(moe, "each_expert", product):
        return experts(x, SEEN)[0]


def variants(count: int, top_k: int, hidden: int, compiled: bool) -> dict[str, tuple[nn.Module, Forward]]:
    """Each way's module and forward; the experts' all hold the same weights."""
    cfg = ModelConfig(vocab=8, width=WIDTH, ffn="moe", experts=count, top_k=top_k, hidden=hidden)
    experts = moe.Experts(cfg)
    dense = Gated(ModelConfig(vocab=8, width=WIDTH, hidden=hidden * top_k))
    found: dict[str, tuple[nn.Module, Forward]] = {
        "dense": (dense, lambda x: dense(x, SEEN)[0]),
        "ours": (experts, lambda x: experts(x, SEEN)[0]),
        "loop": (experts, partial(instead, loop, experts)),
        "padded": (experts, partial(instead, padded, experts)),
    }
    for name, way in {"hf loop": "eager", "hf group": "grouped_mm"}.items():
        sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": hidden, "num_local_experts": count, "num_experts_per_tok": top_k}
        theirs = MixtralSparseMoeBlock(MixtralConfig(**{**sizes, "experts_implementation": way}))
        theirs.load_state_dict({"gate.weight": experts.router.weight, "experts.gate_up_proj": experts.gate_up, "experts.down_proj": experts.down})
        found[name] = (theirs, theirs)
    if compiled:
        fast, dense_fast = torch.compile(experts.forward, dynamic=False), torch.compile(dense.forward, dynamic=False)
        found |= {"dense compiled": (dense, lambda x: dense_fast(x, SEEN)[0]), "ours compiled": (experts, lambda x: fast(x, SEEN)[0])}
    return found


def step(part: nn.Module, forward: Forward, x: Tensor, dtype: torch.dtype) -> float:
    """CPU seconds of one forward and backward pass."""
    part.zero_grad()
    began = time.process_time()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = forward(x)
    out.backward(torch.ones_like(out))
    return time.process_time() - began


def main() -> None:
    rounds = next((int(given) for given in sys.argv[1:] if given.isdigit()), 7)
    cpu = device.describe(torch.device("cpu"))
    print(f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, {ROWS * TOKENS} tokens, width {WIDTH}")
    for dtype in (torch.float32, torch.bfloat16):
        for count, top_k, hidden in SIZES:
            torch.manual_seed(0)
            ways = variants(count, top_k, hidden, "--compile" in sys.argv)
            x = torch.randn(ROWS, TOKENS, WIDTH).requires_grad_()
            times: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(rounds + 2):
                for name, (part, forward) in ways.items():
                    seconds = step(part, forward, x, dtype)
                    if turn >= 2:
                        times[name].append(seconds)
            dense = times.pop("dense")
            print(f"\n{dtype}, {count} experts, top {top_k}, hidden {hidden}: dense {1000 * statistics.median(dense):.0f} ms")
            for name, found in times.items():
                ratios = [one / other for one, other in zip(found, dense, strict=True)]
                print(f"    {name:<15}{statistics.median(ratios):5.2f} [{min(ratios):.2f}, {max(ratios):.2f}]", flush=True)


if __name__ == "__main__":
    main()
