"""Pipeline parallel: each rank holds one or more stretches of the blocks, and micro-batches pass through them by torch's own schedules, 1F1B
(Narayanan et al. 2019) or, with several stretches a rank, interleaved 1F1B (Narayanan et al. 2021, section 2.2).

Model and objective are the ordinary ones. A stage is the whole model less what lies elsewhere, so names stay. Every rank has the rows of the
step, so it knows by itself what the objective will ask the model: only hidden states travel. On the last stage the objective runs,
and when it asks the model to read it is handed what the stages made.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B
from torch.distributed.tensor import DTensor

from bessemer.model.config import ModelConfig
from bessemer.model.model import Model
from bessemer.model.seen import Pass, Slot
from bessemer.train.means import Means, reduce
from bessemer.train.objective import Batch, Objective
from bessemer.train.optimizers.optimizer import trained
from bessemer.train.parallel.shared import add_up, even, local, shard_out, square
from bessemer.train.parallel.spread import Spread, collect, pieces

if TYPE_CHECKING:
    from bessemer.train.loop import FitConfig

FIRST = ("embed", "place", "kind", "embed_norm")  # parts of a model that the first stage holds; the last holds those that are in neither
LAST = ("further", "transform", "head", "pool", "label")
TIED = "embed.weight"  # where embedding and head are one matrix, the last stage has a copy of it


class Pipelined(Spread):
    """A stage or more of the model on each rank of axis "pipe"; each other rank reads other rows."""

    def __init__(self, means: Means, cfg: "FitConfig", where: torch.device, ranks: DeviceMesh):
        super().__init__(means, cfg, where, ranks)
        self.of, self.count = cfg.mesh.pipeline, cfg.mesh.pipeline * cfg.mesh.interleave  # ranks, stages
        check(means.model, self.count)
        self.group, self.me = ranks.get_group("pipe"), ranks.get_local_rank("pipe")
        mine = range(self.me, self.count, self.of)
        self.tied = means.model.cfg.tied and means.model.cfg.has_lm
        self.stages = {number: Stage(stretch(means.model, number, self.count), means, number, self.count).train() for number in mine}
        self.parts = [stage.model for stage in self.stages.values()]
        replicate, shard = ranks["replicate"], ranks["shard"]
        self.rows = (replicate.get_local_rank() * shard.size() + shard.get_local_rank(), replicate.size() * shard.size())
        self.groups = [axis.get_group() for axis in (replicate, shard) if axis.size() > 1]
        self.whole_here = [weight for part in self.parts for weight in part.parameters()]  # the rest FSDP shares out
        if cfg.mesh.zero and self.groups:
            self.whole_here = [weight for stage in self.stages.values() for weight in shard_out(stage, ranks, cfg.mesh.zero, ())]  # type: ignore[arg-type]
        for stage in self.stages.values():
            stage.to(where)
        self.plan: tuple[tuple[int, ...], Any] = ((), None)  # the schedule of the last step, and for what shapes it was made
        self.kind = next(means.model.parameters()).dtype  # of the stream between blocks, whatever matrix products take
        self.names: list[str] = []  # of the objective's terms, which only the last stage sees

    def backward(self, batch: Batch, totals: dict[str, Tensor], size: int, scale: Tensor | None) -> dict[str, Tensor]:
        work = [
            Work(asked(self.whole.objective, self.whole.model.cfg, part), part)
            for part in cut(self._even(batch, self.cfg.batch), size, self.of, self.count)
        ]
        for stage in self.stages.values():
            stage.work, stage.totals, stage.scale, stage.sums = list(work), totals, scale, {}
        numbers = torch.arange(len(work))  # all that a schedule has to deal out: it brings micro-batches to a stage in order
        schedule = self._schedule(tuple(work[0].call[0][0].shape), len(work))
        try:
            schedule.step(numbers, target=numbers, return_outputs=False)
        except RuntimeError as error:  # torch's own, around what the model or the objective said
            raise error.__cause__ or error from None
        add_up(self.whole_here, self.groups)
        self._tie()
        return self._named(self._sums())

    @torch.no_grad()
    def means(self, batch: Batch, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        for stage in self.stages.values():
            stage.totals, stage.scale, stage.sums = totals, None, {}
        which, of = self.rows
        own = self._even({name: column[which::of] for name, column in batch.items()}, len(batch["row_weight"]))
        for part in pieces(own, self.cfg.micro_batch):
            self._read(Work(asked(self.whole.objective, self.whole.model.cfg, part), part))
        for stage in self.stages.values():
            reshard(stage)  # whoever swaps weights around an evaluation must not find old ones gathered
        return self.add(self._named(self._sums()))

    def add(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        values = torch.stack([value.float() for value in sums.values()])
        for group in (self.group, *self.groups):
            distributed.all_reduce(values, group=group)
        return dict(zip(sums, values.unbind(), strict=True))

    def norm(self) -> Tensor:
        counted = [weight for part in self.parts for name, weight in part.named_parameters() if not (self.tied and self.me and name == TIED)]
        trains = {id(weight) for part in self.parts for weight in trained(part)}
        found = square((weight.grad for weight in counted if id(weight) in trains), self.where)
        distributed.all_reduce(found, group=self.group)
        return found.sqrt()

    @torch.no_grad()
    def gather(self, into: Model) -> None:
        own: dict[str, Tensor] = {name: weight for part in self.parts for name, weight in part.named_parameters()}
        first = 0 in distributed.get_process_group_ranks(self.group)  # of the pipelines, which hold the same
        for name, target in into.named_parameters():
            holder = stage_of(name, self.whole.model.cfg.depth, self.count) % self.of
            if holder == self.me:
                weight = own[name]
                weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
            if not first:
                continue
            if self.me == 0:
                if holder:
                    weight = torch.empty_like(target, device=self.where)
                    distributed.recv(weight, group=self.group, group_src=holder)
                target.copy_(weight)
            elif holder == self.me:
                distributed.send(weight.contiguous(), group=self.group, group_dst=0)

    def _even(self, batch: Batch, rows: int) -> Batch:
        """A rank's share of `rows`, as many rows as any other rank's."""
        return even(batch, -(-rows // self.rows[1]), False)

    def _schedule(self, shape: tuple[int, ...], count: int) -> Any:
        """For `count` micro-batches of `shape` (rows, tokens). Made anew where they change, since it holds all that is received."""
        if self.plan[0] != (*shape, count):
            # Shapes are told, not found out by a trial run: that would count its rows twice.
            number, loss = torch.empty(1, dtype=torch.long, device="meta"), torch.empty((), device="meta")
            hidden = torch.empty(*shape, self.whole.model.cfg.width, dtype=self.kind, device="meta", requires_grad=True)
            ends = {n: (hidden if n else number, hidden if n < self.count - 1 else loss) for n in self.stages}
            stages: Any = [PipelineStage(stage, n, self.count, self.where, *ends[n], group=self.group) for n, stage in self.stages.items()]
            # The last stage's output is the loss, and it is a sum already.
            options: Any = {"loss_fn": lambda loss, _: loss, "scale_grads": False}
            made = ScheduleInterleaved1F1B(stages, count, **options) if self.count > self.of else Schedule1F1B(stages[0], count, **options)
            self.plan = ((*shape, count), made)
        return self.plan[1]

    def _read(self, work: "Work") -> None:
        """One micro-batch through all stages, without gradients."""
        shape = (*work.call[0][0].shape, self.whole.model.cfg.width)
        for number, stage in self.stages.items():
            stage.work, hidden = [work], torch.empty(shape, dtype=self.kind, device=self.where)
            if number:
                distributed.recv(hidden, group=self.group, group_src=(number - 1) % self.of)
            out = stage(hidden)
            if number < self.count - 1:
                distributed.send(out.contiguous(), group=self.group, group_dst=(number + 1) % self.of)

    def _tie(self) -> None:
        """The gradient of a matrix that is embedding and head: the sum of what the first and the last stage found, on both."""
        if not self.tied or self.me not in (0, self.of - 1):
            return
        weight = dict(self.parts[-1 if self.me else 0].named_parameters())[TIED]
        if weight.grad is None:  # an objective that does not use the head
            weight.grad = torch.zeros_like(weight)
        peer, grad = self.of - 1 - self.me, local(weight.grad)
        other = torch.empty_like(grad)
        swap = [distributed.P2POp(op, one, group=self.group, group_peer=peer) for op, one in ((distributed.isend, grad), (distributed.irecv, other))]
        for done in distributed.batch_isend_irecv(swap):
            done.wait()
        grad += other

    def _sums(self) -> dict[str, Tensor]:
        """What the last stage found; nothing elsewhere."""
        return self.stages[self.count - 1].sums if self.count - 1 in self.stages else {}

    def _named(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """With a zero for each mean that another rank holds."""
        if not self.names:
            names = [list(sums)]
            distributed.broadcast_object_list(names, group=self.group, group_src=self.of - 1)
            self.names = names[0]
        return {name: sums.get(name, torch.zeros((), device=self.where)) for name in self.names}


@dataclass(frozen=True)
class Work:
    """A micro-batch, and what its objective asks the model to read."""

    call: tuple[tuple[Any, ...], dict[str, Any]]
    batch: Batch


class Stage(nn.Module):
    """Stage `number` of `count`: the hidden states (B, T, C) of the next micro-batch from those of the stage before, which the first does not
    look at; instead of the last one's, the loss."""

    work: list[Work]  # the micro-batches of the step that are still to come
    totals: dict[str, Tensor]  # weights of the whole step
    scale: Tensor | None  # of the loss

    def __init__(self, model: Model, means: Means, number: int, count: int):
        super().__init__()
        self.model, self.objective, self.dtype, self.last = model, means.objective, means.dtype, number == count - 1
        self.kind = next(means.model.parameters()).dtype
        self.sums: dict[str, Tensor] = {}  # what the last stage has found of each mean
        if number:
            model.embedded = lambda ids, at, types: self.received  # type: ignore[method-assign]

    def forward(self, hidden: Tensor) -> Tensor:
        work = self.work.pop(0)
        args, options = work.call
        self.received = hidden
        with torch.autocast(args[0].device.type, self.dtype, enabled=self.dtype != torch.float32):
            hidden = self.model(*args, **options)
            if not self.last:
                return hidden.to(self.kind)
            terms = self.objective(Finished(self.model, hidden), work.batch)  # type: ignore[arg-type]
        loss, parts = reduce(terms, work.batch, self.totals)
        collect(self.sums, parts)
        return loss if self.scale is None else loss * self.scale


class Finished:
    """Stands in for the model on the last stage. Asked to read, it hands out what the stages made; all else is the model's own."""

    def __init__(self, model: Model, hidden: Tensor):
        self.model, self.hidden = model, [hidden]

    def __call__(self, *args: Any, **options: Any) -> Tensor:
        if not self.hidden:
            raise ValueError("mesh: this objective makes the model read twice in a step, and a pipeline reads once: set pipeline = 1")
        return self.hidden.pop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class Asked(Exception):
    """Stands in for the model to learn what an objective asks it to read, and ends the objective there."""

    def __init__(self, cfg: ModelConfig):
        self.cfg = cfg

    def __call__(self, *args: Any, **options: Any) -> Tensor:
        self.call = (args, options)
        raise self


def cut(batch: Batch, size: int, of: int, count: int) -> list[Batch]:
    """A rank's rows in micro-batches of `size` rows (0: as many micro-batches as ranks) for `count` stages on `of` ranks. ValueError where they
    are not of one size, or no schedule has that number of them."""
    rows = len(batch["row_weight"])
    size = size or max(rows // of, 1)
    if rows % size:
        raise ValueError(f"a pipeline passes on micro-batches of one size: micro_batch ({size}) must divide the {rows} rows of each rank")
    parts = rows // size
    if count > of and parts > of and parts % of:
        raise ValueError(f"mesh: interleave passes on micro-batches in rounds of {of}, and here are {parts}: change micro_batch")
    return list(pieces(batch, size))


def asked(objective: Objective, cfg: ModelConfig, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which the objective calls the model for this batch."""
    model = Asked(cfg)
    try:
        objective(model, batch)  # type: ignore[arg-type]
    except Asked:
        return model.call
    raise AssertionError("an objective that never asks the model")


def reshard(stage: nn.Module) -> None:
    """Let go of gathered weights, where FSDP shares them out."""
    for part in stage.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


class Elsewhere(nn.Module):
    """In the place of what another stage holds: passes x on, as a block or as anything else."""

    def forward(self, x: Tensor, seen: Pass | None = None, slot: Slot | None = None, first: Tensor | None = None) -> Any:
        return x if seen is None else (x, first, None)


def check(model: Model, count: int) -> None:
    """ValueError where this model cannot be cut into `count` stages."""
    cfg = model.cfg

    def refuse(wrong: bool, message: str) -> None:
        if wrong:
            raise ValueError(f"mesh: {message}")

    refuse(cfg.depth < count, f"pipeline * interleave = {count} stages hold a block or more each: depth must be {count} or more, not {cfg.depth}")
    refuse(cfg.shape == "encdec", "a pipeline passes on one text's hidden states: shape = encdec has two")
    refuse(cfg.mixer == "rwkv", "mixer = rwkv hands its first block's value to all later ones, which no pipeline passes on")
    refuse(cfg.ffn == "moe", "ffn = moe reports how all blocks' experts share the work, which no stage of a pipeline knows: use expert instead")
    refuse(cfg.position == "bias", "position = bias has one table for all blocks, which a pipeline would cut: use another position")
    for name, _ in model.named_parameters():
        stage_of(name, cfg.depth, count)


def stage_of(name: str, depth: int, count: int) -> int:
    """The stage that holds a weight of the whole model. ValueError for one that belongs to no place in particular."""
    first, *rest = name.split(".")
    if first in FIRST:
        return 0
    if first in LAST or name.startswith("stack.norm."):
        return count - 1
    if name.startswith("stack.blocks."):
        return int(rest[1]) * count // depth
    raise ValueError(f"mesh: a pipeline does not know which stage {name} belongs to: set pipeline = 1")


def stretch(model: Model, number: int, count: int) -> Model:
    """A copy of what stage `number` holds, under the names of the whole; the rest is not copied."""
    parts = {
        **{f"{name}.": part for name, part in model.named_children() if name != "stack"},
        **{f"stack.{name}.": part for name, part in model.stack.named_children() if name != "blocks"},
        **{f"stack.blocks.{name}.": part for name, part in model.stack.blocks.named_children()},
    }
    kept = lambda name: stage_of(name, model.cfg.depth, count) == number or (number == count - 1 and model.cfg.tied and name == "embed.")  # noqa: E731
    empty = {id(part): nn.ModuleList() if isinstance(part, nn.ModuleList) else Elsewhere() for name, part in parts.items() if not kept(name)}
    return copy.deepcopy(model, empty)
