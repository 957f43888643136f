"""Tensor parallelism (Shoeybi et al. 2019): ranks that read the same rows, each with some heads, some of the feed-forward, some of the
vocabulary. One sum over the ranks ends each attention and each feed-forward, forward and backward.

Weights are DTensors, so that optimizer, norm and checkpoint know what they are parts of. The products see plain tensors.
"""

import logging
from typing import Any

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from bessemer.model.attention import Attention, Cross, TokenValue
from bessemer.model.ffn import Dense, Gated
from bessemer.model.model import Model, Stack
from bessemer.model.seen import Pass

INTO, BACK = ("query", "key", "value", "gate", "up"), ("out", "down")
GROUPS: dict[str, ProcessGroup] = {}  # by name: an operator takes no group


def split(model: Model, ranks: DeviceMesh) -> list[str]:
    """Split in place what mesh.check allows. Returns the names of weights that stay whole though each rank finds a part of their gradient
    only: what heads share."""
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # that gathering over two axes takes two steps
    group = ranks.get_group().group_name
    GROUPS[group] = ranks.get_group()
    partial = []
    for name, part in model.named_modules():
        if isinstance(part, Attention | Cross | Gated | Dense):
            part.register_forward_pre_hook(_Fanned(group))
            for inner, module in part.named_children():
                if inner in INTO + BACK:
                    _cut(module, Into if inner in INTO else Back, inner in BACK, ranks, group)
        if isinstance(part, Attention | Cross):
            partial += [f"{name}.{weight}" for weight, _ in part.named_parameters() if weight.partition(".")[0] not in INTO + BACK]
        if isinstance(part, TokenValue):
            part.register_forward_hook(_OwnValues(ranks.size(), ranks.get_local_rank()))
        if isinstance(part, Stack) and model.cfg.position == "bias":
            part.bias.__class__ = OwnHeads
            part.bias.share = (ranks.size(), ranks.get_local_rank())  # type: ignore[assignment]
            partial.append(f"{name}.bias.weight")
    if model.cfg.has_lm and model.cfg.vocab % ranks.size() == 0:
        _cut(model.embed, Words, False, ranks, group)
        _cut(model.head, Head, False, ranks, group)
        if model.cfg.tied:
            model.head.weight = model.embed.weight
    return partial


def _cut(module: nn.Module, kind: type, inner: bool, ranks: DeviceMesh, group: str) -> None:
    """Make `module` one of `kind`, with this rank's rows of its weight and bias, or where `inner` its columns of the weight."""
    module.__class__ = kind
    module.group, module.rank = group, ranks.get_local_rank()  # type: ignore[assignment]
    for name, weight in list(module.named_parameters()):
        if not (inner and name == "bias"):
            cut = distribute_tensor(weight.detach(), ranks, [Shard(int(inner))], src_data_rank=None)
            setattr(module, name, nn.Parameter(cut, weight.requires_grad))


class Into(nn.Linear):
    """Some of the outputs. Whoever calls it must have fanned its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *_here(self))


class Back(nn.Linear):
    """From some of the inputs to whole outputs."""

    group: str

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = _here(self)
        whole = Joined.apply(F.linear(x, weight), self.group)
        return whole if bias is None else whole + bias.to(whole.dtype)


class Words(nn.Embedding):
    """Some rows of an embedding, which answers for all."""

    group: str
    rank: int

    def forward(self, ids: Tensor) -> Tensor:
        rows, _ = _here(self)
        place = ids - self.rank * len(rows)
        mine = (place >= 0) & (place < len(rows))
        return Joined.apply(F.embedding(place.clamp(0, len(rows) - 1), rows) * mine[..., None], self.group)


class Head(nn.Linear):
    """Some words' rows of a head, which answers for all. The loss looks at its weight instead, and never makes whole logits
    (loss.head_cross_entropy)."""

    group: str
    rank: int

    def forward(self, x: Tensor) -> Tensor:
        return Gathered.apply(F.linear(Fanned.apply(x, self.group), *_here(self)), self.group, self.rank)


class OwnHeads(nn.Embedding):
    """T5's bias by distance, (..., H / G): the columns of this rank's heads."""

    share: tuple[int, int]  # how many ranks, which of them

    def forward(self, ids: Tensor) -> Tensor:
        of, rank = self.share
        return super().forward(ids).chunk(of, -1)[rank]


class _Fanned:
    """Before a part whose maps each rank has some outputs of: what it reads is the same on all of them."""

    def __init__(self, group: str):
        self.group = group

    def __call__(self, part: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x, seen, *rest = arguments
        if isinstance(part, Cross) and isinstance(seen, Pass) and seen.memory is not None:
            seen = seen._replace(memory=Fanned.apply(seen.memory, self.group))
        return (Fanned.apply(x, self.group), seen, *rest)


class _OwnValues:
    """Of the values by token (B, K, T, D) those of this rank's heads."""

    def __init__(self, of: int, rank: int):
        self.of, self.rank = of, rank

    def __call__(self, part: nn.Module, arguments: Any, out: Tensor) -> Tensor:
        return out.chunk(self.of, 1)[self.rank]


class Fanned(torch.autograd.Function):
    """x as it is; each rank finds a part of its gradient, and they are added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return add_over(grad, ctx.group), None


class Joined(torch.autograd.Function):
    """The sum of what the ranks have; each gets the gradient of all of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        return add_over(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


class Gathered(torch.autograd.Function):
    """What the ranks have side by side in the last dimension; the gradient of its own part is all that a rank needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str, rank: int) -> Tensor:
        ctx.own = (rank * x.shape[-1], x.shape[-1])
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size(GROUPS[group]))]
        distributed.all_gather(parts, x.contiguous(), group=GROUPS[group])
        return torch.cat(parts, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad.narrow(-1, *ctx.own), None, None


# One operator to torch.compile, which would otherwise have to know the group.
@torch.library.custom_op("bessemer::add_over", mutates_args=())
def add_over(x: Tensor, group: str) -> Tensor:
    """The sum over a group's ranks of tensors of one shape."""
    out = x.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(out, group=GROUPS[group])
    return out


@add_over.register_fake
def _(x: Tensor, group: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _here(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as far as this rank has them."""
    weight = module.get_parameter("weight")
    bias = getattr(module, "bias", None)
    return weight.to_local() if isinstance(weight, DTensor) else weight, bias.to_local() if isinstance(bias, DTensor) else bias
