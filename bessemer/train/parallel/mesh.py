"""Which process does what: ranks in a grid, one axis for each way of sharing out a step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bessemer.core.config import Count, Whole
from bessemer.model.config import ModelConfig

if TYPE_CHECKING:  # half a second that one process need not wait
    from torch.distributed.device_mesh import DeviceMesh

AXES = ("pipe", "replicate", "shard", "tensor")  # neighbours in the last talk most, so they should share a machine


@dataclass(frozen=True)
class MeshConfig:
    """How processes share out a step. ranks = data * context * tensor * pipeline, where `data`, what remains, are ranks that read different rows."""

    ranks: Count = 1  # processes in all; under torchrun its own number counts
    zero: Literal[0, 1, 2, 3] = 0  # what data ranks share out: 0 nothing, 1 optimizer state, 2 and gradients, 3 and weights (ZeRO)
    shards: Whole = 0  # ranks that share out one copy, where zero is 1 to 3; 0: all. Fewer: a copy on each group of ranks (HSDP)
    tensor: Count = 1  # ranks that split each matrix
    pipeline: Count = 1  # ranks that each hold some of the blocks
    interleave: Count = 1  # stretches of blocks on each of those
    expert: Count = 1  # data ranks that share out the experts
    context: Count = 1  # ranks that split each row along the text


def data_ranks(cfg: MeshConfig, world: int) -> int:
    """How many ranks read different rows. ValueError where the axes do not divide the `world`."""
    other = cfg.tensor * cfg.pipeline * cfg.context
    if world % other:
        raise ValueError(f"mesh: tensor {cfg.tensor} * pipeline {cfg.pipeline} * context {cfg.context} must divide the {world} ranks")
    return world // other


def check(cfg: MeshConfig, model: ModelConfig, world: int) -> None:
    """ValueError where the ranks do not divide, or where this model cannot be split so."""

    def refuse(wrong: bool, message: str) -> None:
        if wrong:
            raise ValueError(f"mesh: {message}")

    data = data_ranks(cfg, world)
    holders = data * cfg.context
    refuse(cfg.shards > 0 and not cfg.zero, "shards says how many ranks share out one copy: set zero = 1, 2 or 3")
    refuse(cfg.shards > 0 and holders % cfg.shards != 0, f"shards ({cfg.shards}) must divide the {holders} ranks that hold the same weights")
    refuse(data % cfg.expert != 0, f"expert ({cfg.expert}) must divide the {data} data ranks")
    refuse(cfg.interleave > 1 and cfg.pipeline == 1, "interleave parts the blocks of a pipeline's ranks: set pipeline")
    beside = max(cfg.tensor, cfg.expert, cfg.context) > 1
    refuse(cfg.pipeline > 1 and beside, "pipeline goes with data parallelism only (zero, shards), not with tensor, expert or context")
    refuse(cfg.expert > 1 and cfg.context > 1, "expert does not go with context: choose one")
    if cfg.tensor > 1:
        refuse(model.mixer != "attention", f"tensor splits attention by heads: mixer must be attention, not {model.mixer}")
        refuse(model.ffn not in ("dense", "gated"), f"tensor splits feed-forwards that are dense or gated, not {model.ffn}")
        for name, size in (("heads", model.heads), ("kv_heads", model.kv_heads), ("hidden", model.hidden)):
            refuse(size % cfg.tensor != 0, f"tensor ({cfg.tensor}) must divide {name} ({size})")


def build(cfg: MeshConfig, world: int, device: str) -> "DeviceMesh":
    """The grid of all ranks, (pipe, replicate, shard, tensor). Every process must call it.

    replicate * shard are the ranks that hold the same weights, or shards of them, data * context of them, context innermost: gradients
    and sums are added over both axes.
    """
    from torch.distributed.device_mesh import init_device_mesh

    holders = data_ranks(cfg, world) * cfg.context
    shard = (cfg.shards or holders) if cfg.zero else 1
    return init_device_mesh(device, (cfg.pipeline, holders // shard, shard, cfg.tensor), mesh_dim_names=AXES)


def nearby(mesh: "DeviceMesh", size: int, name: str) -> "DeviceMesh":
    """The same ranks with those that hold the same weights in neighbourhoods of `size`: (pipe, others, `name`, tensor). Every process must
    call it."""
    from torch.distributed.device_mesh import DeviceMesh

    pipe, replicate, shard, tensor = mesh.mesh.shape
    grid = mesh.mesh.reshape(pipe, replicate * shard // size, size, tensor)
    return DeviceMesh(mesh.device_type, grid, mesh_dim_names=("pipe", "others", name, "tensor"))
