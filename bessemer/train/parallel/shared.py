"""Ranks that read different rows of a step, and hold the same weights or share them out."""

import copy
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from bessemer.core import dist
from bessemer.model.attention import Attention, Cross, TokenValue
from bessemer.model.ffn import Dense, Gated
from bessemer.model.model import Model
from bessemer.model.moe import Experts
from bessemer.train.means import Means
from bessemer.train.objective import Batch
from bessemer.train.optimizers.optimizer import balancing, trained
from bessemer.train.parallel.spread import Spread, collect, pieces

if TYPE_CHECKING:
    from bessemer.train.loop import FitConfig


class Shared(Spread):
    """Data parallelism: DistributedDataParallel (Li et al. 2020) where every rank holds everything, else FSDP2 (Zhao et al. 2023), which
    shares out what `zero` says (Rajbhandari et al. 2020). Either may stand on tensor parallelism.

    Gradients are sums, not means, over the ranks. ValueError where a step has other rows than cfg.batch says.
    """

    def __init__(self, means: Means, cfg: "FitConfig", where: torch.device, ranks: DeviceMesh):
        """ranks: from mesh.build."""
        if cfg.mesh.zero or max(cfg.mesh.tensor, cfg.mesh.expert, cfg.mesh.context) > 1:
            # What the stage gave stays whole, so a copy is cut: where it stands, block by block, so that no GPU ever holds all of it.
            means = Means(copy.deepcopy(means.model), means.objective, means.dtype)
        super().__init__(means.train(), cfg, where, ranks)
        replicate, shard, self.tensor = ranks["replicate"], ranks["shard"], ranks["tensor"].get_group()
        self.groups = [axis.get_group() for axis in (replicate, shard) if axis.size() > 1]
        place = replicate.get_local_rank() * shard.size() + shard.get_local_rank()
        self.rows = (place // cfg.mesh.context, replicate.size() * shard.size() // cfg.mesh.context)
        self.apart: list[nn.Parameter] = []  # weights whose gradients are added over all of `groups` at the end of a step
        partial: list[str] = []
        if cfg.mesh.tensor > 1:
            from bessemer.train.parallel.tensor import split

            partial = split(means.model.to(where), ranks["tensor"])
        self.alone = self.cut(means.model)
        if self.groups and (cfg.mesh.zero or cfg.mesh.tensor > 1):
            self.apart = shard_out(means, ranks, cfg.mesh.zero, self.alone)
        means.to(where)
        # weights that all tensor ranks hold, each with a part of the gradient; FSDP2 has put others in their place
        self.partial = [weight for name, weight in means.model.named_parameters() if name in partial]
        self.sharded = [part for part in means.modules() if isinstance(part, FSDPModule)]
        self.replica: DistributedDataParallel | None = None
        self.views: list[tuple[nn.Parameter, Tensor]] = []  # where the replica keeps gradients: what it sends, and what the optimizers read

    def cut(self, model: Model) -> list[nn.Parameter]:
        """Split more of the model over ranks. Returns the weights that data parallelism leaves alone: `finish` must add their gradients."""
        return []

    def share(self, batch: Batch) -> Batch:
        """This rank's part of its rows."""
        return batch

    def finish(self) -> None:
        """Make gradients whole that the backward passes have not."""
        add_up(self.apart, self.groups)
        if self.partial:
            add_up(self.partial, [self.tensor])

    def backward(self, batch: Batch, totals: dict[str, Tensor], size: int, scale: Tensor | None) -> dict[str, Tensor]:
        (which, of), own = self.rows, len(batch["row_weight"])
        if of > 1 and own != len(range(which, self.cfg.batch, of)):  # others would wait for ever
            raise ValueError(f"rank {which} of {of} got {own} rows of a step: it does not have batch = {self.cfg.batch} rows")
        sums: dict[str, Tensor] = {}
        most = -(-self.cfg.batch // of) if of > 1 else own
        parts = list(pieces(self.share(even(batch, most, self._counts())), size))
        for weight, view in self.views if len(parts) > 1 else ():
            weight.grad = view.zero_()  # else the first micro-batches would add up in memory of their own, and be copied there
        for number, part in enumerate(parts):
            with self._reducing(part, totals, last=number == len(parts) - 1):
                loss, means = (self.replica or self.whole)(part, totals)
                (loss if scale is None else loss * scale).backward()
            collect(sums, means)
        self.views = [(weight, weight.grad) for weight in self.whole.parameters() if self.replica and weight.grad is not None]
        self.finish()
        return sums

    @torch.no_grad()
    def means(self, batch: Batch, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        which, of = self.rows
        own = {name: column[which::of] for name, column in batch.items()}
        sums: dict[str, Tensor] = {}
        for part in pieces(self.share(even(own, -(-len(batch["row_weight"]) // of), self._counts())), self.cfg.micro_batch):
            collect(sums, self.whole(part, totals)[1])
        for module in self.sharded:
            module.reshard()  # whoever swaps weights around an evaluation must not find old ones gathered
        return self.add(sums)

    def add(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        values = torch.stack([value.float() for value in sums.values()])
        for group in self.groups:
            distributed.all_reduce(values, group=group)
        return dict(zip(sums, values.unbind(), strict=True))

    def norm(self) -> Tensor:
        return square((weight.grad for part in self.parts for weight in trained(part)), self.where).sqrt()

    @torch.no_grad()
    def gather(self, into: Model) -> None:
        if self.parts[0] is into:
            return
        for weight, target in zip(self.parts[0].parameters(), into.parameters(), strict=True):
            whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
            if dist.rank() == 0:
                target.copy_(whole)

    def _counts(self) -> bool:
        """Whether the model counts tokens beside the loss, so that rows which weigh nothing must be padding, too."""
        return bool(balancing(self.parts[0]))

    def _reducing(self, batch: Batch, totals: dict[str, Tensor], last: bool) -> AbstractContextManager[Any]:
        """In the block gradients are added over ranks as far as they must be: at the last micro-batch, or wherever they do not stay whole."""
        zero = self.cfg.mesh.zero
        for module in self.sharded:
            module.set_is_last_backward(last)
            module.set_requires_gradient_sync(last or zero >= 2, recurse=False)
            module.set_requires_all_reduce(last, recurse=False)
            module.set_reshard_after_backward(last or zero == 3, recurse=False)
        if self.sharded or not self.groups:
            return nullcontext()
        if self.replica is None:
            self.replica = replicate(self.whole, self.groups[0], self.alone, batch, totals)
        return nullcontext() if last else self.replica.no_sync()


def replicate(means: Means, group: ProcessGroup, alone: Sequence[nn.Parameter], batch: Batch, totals: dict[str, Tensor]) -> DistributedDataParallel:
    """`means` with gradients summed over `group` while the backward pass goes on. One forward pass tells which weights the objective uses:
    looking for the others at every step would cost time, and waiting for their gradients would hang."""
    with torch.random.fork_rng():
        used = {id(weight) for weight in leaves(means(batch, totals)[0])} - {id(weight) for weight in alone}
    idle = [weight for weight in means.parameters() if weight.requires_grad and id(weight) not in used]
    for weight in idle:
        weight.requires_grad_(False)  # DistributedDataParallel then never hears of it
    replica = DistributedDataParallel(means, process_group=group, init_sync=False, gradient_as_bucket_view=True)
    for weight in idle:
        weight.requires_grad_(True)
    replica.register_comm_hook(group, summed)
    return replica


def summed(group: ProcessGroup, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
    """Adds a bucket of gradients over the group; the default would take the mean."""
    return distributed.all_reduce(bucket.buffer(), group=group, async_op=True).get_future().then(lambda done: done.value()[0])


def leaves(loss: Tensor) -> list[Tensor]:
    """The weights that `loss` was made of."""
    found, seen, todo = [], set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo += [following for following, _ in node.next_functions]
    return found


def shard_out(means: Means, ranks: DeviceMesh, zero: int, alone: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """FSDP2 around each block and, for the rest, around `means`. Returns the weights that every rank keeps whole.

    On bf16 runs the weights that matrix products round anyway travel in bf16. Gains, routers and the like are not rounded in one process,
    so they are not here: they are small, and stay whole.
    """
    mesh = ranks["shard"] if ranks["replicate"].size() == 1 else ranks["replicate", "shard"]
    rounding = means.dtype == torch.bfloat16
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, None, False) if rounding else MixedPrecisionPolicy(cast_forward_inputs=False)
    blocks = means.model.blocks
    rounded = {id(weight) for block in blocks for weight in products(block)} if rounding else set()
    whole = [w for block in blocks for w in block.parameters() if rounding and id(w) not in rounded and all(w is not a for a in alone)]
    left = {*whole, *alone}
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # of which nobody changes anything in place
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=zero == 3, ignored_params=left)
    plain = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(means, mesh=mesh, mp_policy=plain, reshard_after_forward=False, ignored_params=left)
    for module in means.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it adds, and nothing is to be scaled
    return whole


def products(block: nn.Module) -> list[nn.Parameter]:
    """The weights that autocast rounds to 16 bits wherever they are used: those of linear maps in attention and feed-forwards. And tables of
    values by token: large, and what is made of them is rounded."""
    found = []
    for part in block.modules():
        if isinstance(part, Attention | Cross | Gated | Dense):
            found += [weight for inner in part.children() if isinstance(inner, nn.Linear) for weight in inner.parameters()]
        if isinstance(part, TokenValue):
            found += part.table.parameters()
        if isinstance(part, Experts):
            found += [part.gate_up, part.down]
    return found


def even(batch: Batch, rows: int, counts: bool) -> Batch:
    """A batch filled up to `rows` with rows that weigh nothing, so that all ranks do the same passes over the same shapes.

    They repeat the last row, whose loss is finite; where there is none, they are made up. `counts`: as padding, which no statistics count.
    """
    missing = rows - len(batch["row_weight"])
    if counts and "segment" not in batch and "tokens" in batch:
        batch = {**batch, "segment": torch.ones_like(batch["tokens"])}
    if not missing:
        return batch
    if counts and "segment" not in batch:
        raise ValueError("experts with balance = bias count the tokens of all rows: make batch a multiple of the ranks that read different rows")
    filled = {}
    for name, column in batch.items():
        last = column[-1:] if len(column) else column.new_ones(1, *column.shape[1:])
        if name in ("row_weight", "token_weight") or (counts and name == "segment"):
            last = torch.zeros_like(last)
        filled[name] = torch.cat([column, last.expand(missing, *column.shape[1:])])
    return filled


def add_up(weights: Iterable[nn.Parameter], groups: Sequence[ProcessGroup]) -> None:
    """Sum the gradients over each of the groups, as one message."""
    grads = [local(weight.grad) for weight in weights if weight.grad is not None]
    if not grads or not groups:
        return
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    for group in groups:
        distributed.all_reduce(flat, group=group)
    for grad, summed in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(summed.view_as(grad))


def square(grads: Iterable[Tensor | None], where: torch.device) -> Tensor:
    """The square of the L2 norm of gradients that may lie on several ranks, () in fp32, the same on each of those."""
    found: dict[tuple[ProcessGroup, ...], list[Tensor]] = {}  # by the ranks that hold other parts
    for grad in grads:
        if grad is not None:
            found.setdefault(holders(grad), []).append(local(grad))
    total = torch.zeros((), device=where)
    for groups, parts in found.items():
        part = torch.nn.utils.get_total_norm(parts).float().square()
        for group in groups:
            distributed.all_reduce(part, group=group)
        total = total + part
    return total


def local(tensor: Tensor) -> Tensor:
    """What of it lies here."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def holders(tensor: Tensor) -> tuple[ProcessGroup, ...]:
    """The groups of ranks that hold other parts of it."""
    if not isinstance(tensor, DTensor):
        return ()
    mesh = tensor.device_mesh
    assert not any(how.is_partial() for how in tensor.placements), "a gradient that nobody has added up"
    # Not is_shard(): what FSDP2 makes of a weight that tensor parallelism has split says no to that.
    return tuple(mesh.get_group(axis) for axis, how in enumerate(tensor.placements) if not how.is_replicate() and mesh.size(axis) > 1)
