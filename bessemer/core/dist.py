"""Ranks: how many processes train together and which one this is. One process is the ordinary case."""

import os

import torch
import torch.distributed as distributed


def start() -> None:
    """Join the group that torchrun describes in the environment, if it does."""
    if "WORLD_SIZE" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def add(tensors: list[torch.Tensor]) -> None:
    """Sum each tensor over all ranks, in place, as one message."""
    if world() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))
