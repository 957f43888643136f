"""Stages on several processes. torchrun starts them for one stage (`mesh.ranks` of its config), or has started us, on one machine or many.

A stage is written as if it ran alone: every rank runs it, the training loop shares out the work, rank 0 alone writes.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bessemer.core import log

RUN = "run"  # as in artifact.py
JOB, NUMBERS, FAILED = f"{RUN}/job.pickle", f"{RUN}/numbers.json", f"{RUN}/failed.txt"
STOPPED = 143  # exit status of work that SIGTERM ended, as a shell reports it
RESTARTS = 3  # of ranks that died, not of those that said what is wrong
# What a second try would meet again. Lost connections are RuntimeErrors.
FINAL = (ValueError, TypeError, LookupError, OSError, ArithmeticError, AssertionError)


def asked() -> int:
    """How many processes torchrun says there are; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def ranks(cfg: Any) -> int:
    """How many processes a stage with this config runs on: 1 for all but training."""
    mesh = getattr(cfg, "mesh", None)
    return mesh.ranks if mesh else 1


def call(function: Callable[..., dict[str, float]], inputs: Mapping[str, Any], out: Path, cfg: Any) -> dict[str, float]:
    """`function(**inputs, out=out, cfg=cfg)`, on as many processes as its config asks for. Returns what rank 0 returned."""
    wanted = ranks(cfg)
    if asked() > 1 or wanted == 1:
        return function(**inputs, out=out, cfg=cfg)
    for name in (NUMBERS, FAILED):
        (out / name).unlink(missing_ok=True)
    (out / RUN).mkdir(parents=True, exist_ok=True)
    (out / JOB).write_bytes(pickle.dumps((function, dict(inputs), out, cfg)))
    where = ["--standalone", f"--nproc-per-node={wanted}", "--max-restarts=0"]
    command = [sys.executable, "-m", "bessemer.core.launch", *where, "-m", "bessemer.core.launch", str(out / JOB)]
    threads = str(max(1, (os.cpu_count() or 1) // wanted))
    log.say(f"{wanted} processes, {threads} threads each")
    # All of torchrun is started anew, not its ranks alone: gloo's ranks have been seen to wait for each other for ever after the latter.
    for _ in range(RESTARTS + 1):
        with subprocess.Popen(command, env={"OMP_NUM_THREADS": threads, "LOGLEVEL": "CRITICAL", **os.environ}) as started:
            before = signal.signal(signal.SIGTERM, lambda *_, started=started: started.terminate())
            try:
                status = started.wait()
            finally:
                signal.signal(signal.SIGTERM, before)
        if status == STOPPED or any((out / name).is_file() for name in (NUMBERS, FAILED)):
            break
    if (out / FAILED).is_file():
        raise ValueError((out / FAILED).read_text())
    if status == STOPPED:
        raise SystemExit(STOPPED)
    if not (out / NUMBERS).is_file():
        raise RuntimeError(f"the {wanted} processes died, and {RESTARTS} times again; the same command continues from the last checkpoint")
    return json.loads((out / NUMBERS).read_text())


def follow(
    function: Callable[..., Any], inputs: Mapping[str, Any], part: Path, cfg: Any, begun: Callable[[], bool], done: Callable[[], bool]
) -> None:
    """What ranks other than 0 do while rank 0 makes an artifact: take part where the stage trains, else wait. The store is a file system
    that all ranks see."""
    trains = hasattr(cfg, "mesh")
    while not (done() or (trains and begun())):
        time.sleep(0.2)
    if trains and not done():
        function(**inputs, out=part, cfg=cfg)
    while not done():
        time.sleep(0.2)


def watch(words: list[str]) -> None:
    """torchrun, without its traceback where it is told to stop or a process has said what is wrong."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(words)
    except SignalException:
        sys.exit(STOPPED)
    except ChildFailedError as error:
        sys.exit(error.get_first_failure()[1].exitcode)


def take_part(job: Path) -> None:
    """One of the processes that `watch` starts."""
    function, inputs, out, cfg = pickle.loads(job.read_bytes())
    if (out / FAILED).is_file():  # another rank has said what is wrong, and torchrun tries again
        return
    log.console.quiet = rank() > 0
    try:
        numbers = function(**inputs, out=out, cfg=cfg)
    except FINAL as error:
        (out / FAILED).write_text(" ".join(str(error).split()) or type(error).__name__)
        sys.exit(1)
    if rank() == 0:
        (out / NUMBERS).write_text(json.dumps(numbers))


if __name__ == "__main__":
    take_part(Path(sys.argv[1])) if "RANK" in os.environ else watch(sys.argv[1:])
