"""Ranks: how many processes train together and which one this is. One process is the ordinary case."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as distributed

from bessemer.core import launch

T = TypeVar("T")
MEET, WAIT = timedelta(seconds=90), timedelta(minutes=60)


def start() -> None:
    """Join the group that torchrun describes in the environment, if it does."""
    if launch.asked() > 1 and not distributed.is_initialized():
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # To meet takes seconds. Ranks that were started anew have been seen to wait for each other for ever: torchrun shall try again. Later
        # they wait long, while rank 0 looks at the model.
        # Both: checkpoints and decisions travel between processors while gradients travel between GPUs.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=MEET)
        distributed.distributed_c10d._set_pg_timeout(WAIT)


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else launch.rank()


def world() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def agree(value: T) -> T:
    """Rank 0's value, on every rank."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    distributed.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def any_of(mine: bool) -> bool:
    """Whether it is so on any rank. No GPU waits for the answer."""
    if world() == 1:
        return mine
    found = torch.tensor(float(mine))
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return bool(found)


@contextmanager
def first() -> Iterator[None]:
    """Rank 0 runs the block before the others do: what it writes they find."""
    start()
    if rank():
        wait()
    yield
    if not rank():
        wait()


def wait() -> None:
    """Until every rank has come here."""
    any_of(False)
