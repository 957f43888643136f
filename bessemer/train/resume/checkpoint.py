"""What a killed training run needs to go on exactly, in run/resume/step-00000100/: weights, optimizer state, whatever else the loop hands over.

A checkpoint is whole or absent: it is written under another name, each file reaches the disk, `digests.json` comes last, then one rename.
The format is torch.distributed.checkpoint's with the names of the whole model, so any number of ranks of any kind reads what any other wrote.
Writing is a thread's work; training goes on as soon as the state is copied.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from bessemer.core import artifact, dist, log
from bessemer.train.optimizers.muon import local
from bessemer.train.resume import state

T = TypeVar("T")
DIGESTS, EXTRAS = "digests.json", "extras.json"
UNFINISHED = ".tmp"


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them. With several ranks all of them make every call, in the same order."""

    def __init__(self, folder: Path, keep: int = 2):
        assert keep > 0, keep
        self.folder, self.keep = folder / artifact.RUN / "resume", keep
        # The writer talks to the other ranks while training does: never over the same group.
        self.group = distributed.new_group(backend="gloo") if dist.world() > 1 else None
        self.copies: dict[str, Tensor] = {}
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[None] | None = None
        self.newest = -1  # the step whose checkpoint needs no writing any more

    def load(self, parts: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer], extras: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Restore the newest whole checkpoint in place. Returns its finished steps and its extras; 0 and {} where there is none.

        Tensors in `extras` are filled in place too; the rest of `extras` says nothing. A checkpoint that is not what was written is named
        in a warning, and the one before it is taken. ValueError where it belongs to another model or other optimizers.
        """
        self._wait()
        for step in self._together(self._begin)[0]:
            path = self._path(step)
            if damage := next(filter(None, self._everywhere(self._damage(path))), None):
                if dist.rank() == 0:
                    log.say(f"warning: the checkpoint of step {step} is damaged and passed over: {damage}")
                continue
            found = self._restore(path, parts, optimizers, extras)
            self.newest = step
            return step, found
        return 0, {}

    def save(self, step: int, parts: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer], extras: Mapping[str, Any]) -> None:
        """Keep the state after `step` finished steps. Returns when it is copied; what the write meets is raised by the next save or close.

        Numbers in `extras` are rank 0's. OSError in one line where the disk is full; the checkpoints before stay.
        """
        from bessemer.train.resume import store  # noqa: F401 (here, and not first in the writer: two threads must not import at once)

        self._wait()
        if step == self.newest:
            return
        found, plain = state.flat(extras, state.aliases(parts))
        whole = state.weights(parts)
        whole |= {moment.name: moment.tensor for moment in state.moments(parts, optimizers)}
        whole |= {name: extra.tensor for name, extra in found.items()}
        text = json.dumps(plain, indent=1)
        self._together(lambda: self._clear(step))
        own = state.owned(whole, self._everywhere)
        self.pending = self.writer.submit(self._write, step, own, text, self._copy(own))

    def close(self) -> None:
        """Wait for the last write. Raises what it met."""
        self.writer.shutdown()
        self._wait()

    def _wait(self) -> None:
        pending, self.pending = self.pending, None
        if pending:
            pending.result()

    def _copy(self, own: Mapping[str, Tensor]) -> torch.cuda.Event | None:
        """The state as it is now, in memory that is kept from save to save. On a GPU only queued: the next step's kernels come behind it."""
        ready = None
        for name, tensor in own.items():
            here = local(tensor)
            kept = self.copies.get(name)
            if kept is None or kept.shape != here.shape or kept.dtype != here.dtype:
                kept = self.copies[name] = torch.empty(here.shape, dtype=here.dtype, pin_memory=here.is_cuda)
            kept.copy_(here, non_blocking=True)
            if here.is_cuda and ready is None:
                ready = torch.cuda.Event()
        if ready:
            ready.record()
        return ready

    def _write(self, step: int, own: dict[str, Tensor], extras: str, ready: torch.cuda.Event | None) -> None:
        from bessemer.train.resume import store

        temporary = self._unfinished(step)
        try:
            if ready:
                ready.synchronize()
            store.write(temporary, own, self.copies, self.group)
            files = self._together(lambda: self._complete(temporary, extras))[0]
            digests = self._together(lambda: {name: _sha256(temporary / name) for name in self._share(files)})
            self._together(lambda: self._finish(step, {name: value for some in digests for name, value in some.items()}))
        except BaseException as error:
            if dist.rank() == 0:
                shutil.rmtree(temporary, ignore_errors=True)  # it may be what fills the disk
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise OSError(errno.ENOSPC, "no space left on the disk", str(self.folder)) from error
            raise
        self.newest = step

    def _complete(self, temporary: Path, extras: str) -> list[str]:
        """The files of which digests are taken, once all are there."""
        if dist.rank() != 0:
            return []
        with artifact.atomic(temporary / EXTRAS) as file:
            file.write_text(extras, encoding="utf-8")
        return sorted(file.name for file in temporary.iterdir())

    def _finish(self, step: int, digests: dict[str, str]) -> None:
        """One rename makes the checkpoint; then older ones go, and what a damaged one left at later steps."""
        if dist.rank() != 0:
            return
        path, temporary = self._path(step), self._unfinished(step)
        artifact.write_json(temporary / DIGESTS, {"step": step, "sha256": digests})
        _sync(temporary)
        _drop(path)
        temporary.rename(path)
        _sync(self.folder)
        standing = self._standing()
        kept = [other for other in standing if other <= step][: self.keep]
        for other in standing:
            if other not in kept:
                _drop(self._path(other))

    def _restore(
        self, path: Path, parts: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer], extras: Mapping[str, Any]
    ) -> dict[str, Any]:
        from bessemer.train.resume import store

        saved = store.contents(path)
        weights = state.weights(parts)
        names = {name for some in self._everywhere(list(weights)) for name in some}
        problems = self._everywhere(state.unlike(weights, names, saved) or state.foreign(parts, optimizers, saved))
        if problem := next(filter(None, problems), None):
            raise ValueError(f"{path} is a checkpoint of another run: {problem}")
        moments = state.room(parts, optimizers, saved)
        wanted = state.wanted(extras, state.aliases(parts), saved)
        tensors = weights | {moment.name: moment.tensor for moment in moments} | {name: extra.tensor for name, extra in wanted.items()}
        store.fill(path, tensors, self.group)
        for moment in moments:
            moment.optimizer.state[moment.weight][moment.key] = moment.tensor
        return state.nested(wanted, json.loads((path / EXTRAS).read_text(encoding="utf-8")))

    def _begin(self) -> list[int]:
        """Steps to try, newest first, once nothing half-written is left."""
        if dist.rank() != 0:
            return []
        for path in self.folder.glob("*" + UNFINISHED):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self._standing()

    def _standing(self) -> list[int]:
        return sorted((int(path.name[5:]) for path in self.folder.glob("step-*") if path.name[5:].isdecimal()), reverse=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _clear(self, step: int) -> None:
        if dist.rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._unfinished(step), ignore_errors=True)

    def _unfinished(self, step: int) -> Path:
        path = self._path(step)
        return path.with_name(path.name + UNFINISHED)

    def _damage(self, path: Path) -> str | None:
        """What is wrong with this rank's share of a checkpoint's files."""
        try:
            digests = json.loads((path / DIGESTS).read_text(encoding="utf-8"))["sha256"]
            wrong = [name for name in self._share(sorted(digests)) if _sha256(path / name) != digests[name]]
        except OSError as error:
            return f"{Path(error.filename or path).name}: {error.strerror}"
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{DIGESTS} is no list of digests"
        return f"{wrong[0]} is not what was written" if wrong else None

    def _share(self, files: Sequence[str]) -> Sequence[str]:
        return files[dist.rank() :: dist.world()]

    def _everywhere(self, value: T) -> list[T]:
        """The value of each rank, in their order."""
        if self.group is None:
            return [value]
        found: list[T | None] = [None] * dist.world()
        distributed.all_gather_object(found, value, group=self.group)
        return found  # type: ignore[return-value]

    def _together(self, work: Callable[[], T]) -> list[T]:
        """What `work` returns on each rank. Where it fails on one it fails on all: none is left waiting for another."""
        value, problem = None, None
        try:
            value = work()
        except Exception as error:
            problem = error
        outcomes = self._everywhere((value, problem))
        for _, problem in outcomes:
            if problem:
                raise problem
        return [value for value, _ in outcomes]  # type: ignore[misc]


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of an unfinished artifact that is what was written."""
    kept = Checkpoints(folder)
    return next((path for path in map(kept._path, kept._standing()) if kept._damage(path) is None), None)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of the checkpoint at `path`, whole, by name (weights/..., optimizer/CLASS/WEIGHT/..., extras/...), and its plain extras.

    In one process, on the CPU, whatever wrote it: for looking at and converting.
    """
    from bessemer.train.resume import store

    tensors = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in store.contents(path).items()}
    store.fill(path, tensors, None)
    return tensors, json.loads((path / EXTRAS).read_text(encoding="utf-8"))


def _drop(path: Path) -> None:
    """Delete a checkpoint so that a kill in between leaves no half one under its name."""
    if path.exists():
        shutil.rmtree(path.rename(path.with_name(path.name + ".old" + UNFINISHED)))


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
