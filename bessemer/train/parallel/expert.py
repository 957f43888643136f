"""Expert parallelism (Lepikhin et al. 2021): data ranks share out the experts. A token travels to the rank of each expert it chose, and what
the expert says travels back.

S choices that tokens of this rank made, R choices that arrive here, C width, E experts, G ranks that share them out.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from bessemer.model.config import ModelConfig
from bessemer.model.model import Model
from bessemer.model.moe import Experts, Reorder, feed_forward
from bessemer.train.parallel import mesh
from bessemer.train.parallel.shared import Shared, add_up


class ByExpert(Shared):
    """Data parallelism in which a rank holds E / G experts of each block, and all else as before. An expert's gradient is whole after the
    backward pass, up to the ranks that hold a copy of it."""

    def cut(self, model: Model) -> list[nn.Parameter]:
        assert self.ranks is not None
        check(model.cfg, self.cfg.mesh.expert)
        near = mesh.nearby(self.ranks, self.cfg.mesh.expert, "expert")
        self.copies, group = near.get_group("others"), near.get_group("expert")
        stacks = []
        for part in model.modules():
            if isinstance(part, Experts):
                for name in ("gate_up", "down"):
                    whole = getattr(part, name).detach().to(self.where)
                    setattr(part, name, nn.Parameter(distribute_tensor(whole, near["expert"], [Shard(0)], src_data_rank=None)))
                    stacks.append(getattr(part, name))
                part.each = partial(afar, part, group=group)  # type: ignore[method-assign]
        return stacks

    def finish(self) -> None:
        super().finish()
        add_up(self.alone, [self.copies])


def check(cfg: ModelConfig, of: int) -> None:
    """ValueError where `of` ranks cannot share out the experts of this model."""
    if cfg.ffn != "moe" or cfg.experts % of:
        said = f"{cfg.experts} experts" if cfg.ffn == "moe" else f"ffn = {cfg.ffn}, which has none"
        raise ValueError(f"mesh: expert ({of}) must divide the experts of the model; it has {said}")


@torch.compiler.disable  # how many tokens go where is known only when they go
def afar(part: Experts, x: Tensor, ends: Tensor, group: ProcessGroup) -> Tensor:
    """Experts.each where this rank holds a share of the stacks: what each expert says to its rows of x (S, C), which are sorted by expert;
    ends (E,) is where each one's rows end. Counts go ahead of the tokens, and a GPU is waited for once, to read them."""
    of = distributed.get_world_size(group)
    counts = ends.diff(prepend=ends.new_zeros(1))  # (E,)
    arriving = torch.empty_like(counts)  # for the experts of this rank, from each rank in turn
    distributed.all_to_all_single(arriving, counts, group=group)
    sent, received = torch.stack([counts, arriving]).view(2, of, -1).sum(-1).tolist()
    heard = Exchange.apply(x, sent, received, group)  # (R, C)
    own = len(ends) // of
    expert = torch.arange(own, device=x.device).repeat(of).repeat_interleave(arriving, output_size=sum(received))
    order = expert.argsort(stable=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
    own_ends = arriving.view(of, own).sum(0).cumsum(0).to(ends.dtype)
    said = feed_forward(Reorder.apply(heard, order, place, 1), _here(part.gate_up), _here(part.down), part.act, own_ends)
    return Exchange.apply(Reorder.apply(said, place, order, 1), received, sent, group)


def _here(stack: Tensor) -> Tensor:
    assert isinstance(stack, DTensor)
    return stack.to_local()


class Exchange(torch.autograd.Function):
    """Rows of x go to the ranks of the group, `sent` of them to each in turn, and rows come from them, `received` of each. Gradients go back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
        ctx.back = (received, sent, group)
        out = x.new_empty(sum(received), *x.shape[1:])
        distributed.all_to_all_single(out, x.contiguous(), received, sent, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return Exchange.apply(grad, *ctx.back), None, None, None
