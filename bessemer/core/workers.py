"""Work on many shards in several processes, each shard in a process of its own, so that a page which hangs or crashes a
parser written in C takes no more than itself with it."""

import contextlib
import functools
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bessemer.core import cluster, log

CLUSTER = "BESSEMER_CLUSTER"
# What a parser dies of by its own fault; SIGPROF is the timer that `limit` sets. Any other signal came from outside.
FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGPROF)


@dataclass(frozen=True)
class Job:
    """One call of the work function: `function(*args, skip, at)`."""

    args: tuple[Any, ...]
    size: float  # in the units of `at`
    skip: tuple[tuple[int, str], ...] = ()  # places that killed an earlier attempt, and how


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable[..., None], jobs: Sequence[Job], workers: int, label: str) -> None:
    """Run every job, at most `workers` at a time (0: one per core), with a progress bar over the sum of their sizes: on this machine,
    or on the Ray cluster that the environment variable BESSEMER_CLUSTER names (see `cluster`).

    `function` must be importable. It stores in `at.value` where it is; should that place kill the process, the job is run
    again with the place and the cause added to `skip`. Its exceptions are raised here once the others have stopped.
    """
    if not jobs:
        return
    with log.progress(label, sum(job.size for job in jobs)) as bar:

        def reached(units: float) -> None:
            bar.advance(units - bar.done)

        if address := os.environ.get(CLUSTER):
            # A task runs in another folder than ours.
            sent = [replace(job, args=tuple(arg.resolve() if isinstance(arg, Path) else arg for arg in job.args)) for job in jobs]
            cluster.run(functools.partial(_alone, function), sent, workers, reached, address)
        else:
            here(function, jobs, workers, reached)


def here(function: Callable[..., None], jobs: Sequence[Job], workers: int, reached: Callable[[float], None]) -> None:
    """Run every job in a process of its own on this machine; `reached` hears how many units are done."""
    # Each process is forked from one that has done nothing but import, once: clean as a new one, without half a second of imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    waiting, finished = list(reversed(jobs)), 0.0
    running: dict[Any, tuple[Any, Job, Any]] = {}  # by the pipe that says how it ended
    try:
        while waiting or running:
            while waiting and len(running) < (workers or cores()):
                job, at = waiting.pop(), context.Value("q", 0, lock=False)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(function, job, at, theirs), daemon=True)
                with contextlib.nullcontext() if any(map(_of_main, (function, *job.args))) else _main_left_alone():
                    process.start()
                theirs.close()
                running[ours] = (process, job, at)
            for result in wait(list(running), timeout=0.2):
                process, job, at = running.pop(result)
                if again := _outcome(process, job, at, result):
                    waiting.append(again)
                else:
                    finished += job.size
            reached(finished + sum(min(at.value, job.size) for _, job, at in running.values()))
    finally:
        for process, *_ in running.values():
            process.kill()


@contextlib.contextmanager
def _main_left_alone() -> Iterator[None]:
    """A process that is started within does not import the main module again, which may be our whole command line, or Ray's worker:
    half a second each. What it runs lies in other modules."""
    main = sys.modules["__main__"]
    kept: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    vars(main).update(dict.fromkeys(kept))
    try:
        yield
    finally:
        vars(main).update(kept)


def _of_main(value: Any) -> bool:
    """Whether `value`, or the function that it wraps, is defined in the main module: then the process needs that."""
    return getattr(getattr(value, "func", value), "__module__", "") == "__main__"


def _alone(function: Callable[..., None], job: Job) -> None:
    here(function, [job], 1, lambda units: None)


def limit(seconds: float) -> None:
    """Kill this process after so many seconds of its own CPU time; 0 calls it off. A signal handler would wait for C code to end."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _child(function: Callable[..., None], job: Job, at: Any, result: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    threading.Thread(target=_end_with_stage, args=(result,), daemon=True).start()
    try:
        function(*job.args, job.skip, at)
        result.send(None)
    except Exception as error:
        # Only Python's own exceptions are sure to survive the way through the pipe.
        result.send(error if type(error).__module__ == "builtins" else RuntimeError(f"{type(error).__name__}: {error}"))


def _end_with_stage(result: Connection) -> None:
    """End this process when the stage does, however it ends: its successor writes the same files. The process that we were forked from
    does not tell, for it waits for us."""
    ended = select.poll()
    ended.register(result.fileno(), 0)  # only that nobody reads the pipe any more
    ended.poll()
    os._exit(1)


def _outcome(process: Any, job: Job, place: Any, result: Any) -> Job | None:
    """None where the job is done, the job to run instead where a place in it killed the process; raises its error otherwise."""
    said: tuple[Any, ...] = ()
    with result:
        with contextlib.suppress(EOFError, OSError):  # of a process that died without a word, or within it
            said = (result.recv(),)  # before the join: an error longer than a pipe holds keeps its process until it is read
        process.join()
    if said and said[0] is not None:
        raise said[0]
    if said:
        return None
    code, at = process.exitcode or 0, place.value
    if -code not in FAULTS:
        raise RuntimeError(f"a worker died ({_cause(code)}) on {job.args[0]}: out of memory?")
    if sum(place == at for place, _ in job.skip) == 2:
        raise RuntimeError(f"a worker died again and again ({_cause(code)}) at {at} of {job.args[0]}")
    return replace(job, skip=(*job.skip, (at, "time limit" if -code == signal.SIGPROF else f"parser crashed: {_cause(code)}")))


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
