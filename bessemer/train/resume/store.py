"""Tensors to files and back, whole or in shards, through torch.distributed.checkpoint. To load it costs most of a second, so few do."""

import errno
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch.distributed.checkpoint as storage
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from bessemer.train.resume.state import Like

# It says so at each call of one process. Not silenced call by call: that is no matter of one thread.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


def write(path: Path, own: dict[str, Tensor], copies: Mapping[str, Tensor], group: ProcessGroup | None) -> None:
    """Write this rank's tensors, and bring them to the disk: shapes and places from `own`, data from `copies`. All of `group` take part.

    OSError where the disk is full on any rank, on all of them.
    """
    try:
        storage.save(own, storage_writer=_Writer(path), planner=_Copied(copies), process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _cause(error, path) from None


def fill(path: Path, tensors: dict[str, Tensor], group: ProcessGroup | None) -> None:
    """Read into `tensors`, in place; DTensors get their shares, whatever shares were written."""
    planner = DefaultLoadPlanner(flatten_state_dict=False)
    try:
        storage.load(tensors, storage_reader=storage.FileSystemReader(path), planner=planner, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _cause(error, path) from None


def contents(path: Path) -> dict[str, Like]:
    """Shape and dtype of each whole tensor."""
    found = storage.FileSystemReader(path).read_metadata().state_dict_metadata
    return {name: (about.size, about.properties.dtype) for name, about in found.items() if isinstance(about, TensorStorageMetadata)}


class _Writer(storage.FileSystemWriter):
    """Says that the disk is full where it is. torch's zip writer finds its file too short instead, and other ranks would hear only that."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            cause: BaseException | None = error
            while cause:
                if getattr(cause, "errno", None) == errno.ENOSPC:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                cause = cause.__context__
            raise


class _Copied(DefaultSavePlanner):
    """Takes data from copies: training has gone on by now."""

    def __init__(self, copies: Mapping[str, Tensor]):
        super().__init__(flatten_state_dict=False)
        self.copies = copies

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.copies[index.fqn]


def _cause(error: CheckpointException, path: Path) -> BaseException:
    """What happened: torch wraps the errors of all ranks in one of its own, which is no Exception."""
    causes = [cause for cause, _ in error.failures.values()]
    if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in causes):
        return OSError(errno.ENOSPC, "no space left on the disk", str(path))
    return causes[0]
