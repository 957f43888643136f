"""The crash drill: a run that is killed again and again must end as one that never was, bit for bit.

Small runs are killed at any time, inside a checkpoint's writing, by SIGTERM, by a full disk; and one bit of the newest checkpoint is
changed. Each time the run is started again. At the end weights, optimizer state, the rows of each step, its random draws and its losses
are compared with those of a run that was left alone.
"""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bessemer.core import artifact, log
from bessemer.core import doctor as machine
from bessemer.train.parallel import shared
from bessemer.train.report.trackers import METRICS
from bessemer.train.resume import checkpoint, state, store, victim
from bessemer.train.resume.victim import FULL, RUNS, End

WAYS = ("write", "corrupt", "full", "term", "time")
EVENTS = 50  # touches of a checkpoint's files in about two saves
APART = 12  # steps a run has for each interruption, so that all of them come before its end
PATIENCE = 300.0  # seconds for a run of a few dozen small steps, on a machine that does other things as well
GRACE = 20.0  # seconds for a rank to notice that another has died
DISK = 64 << 20  # bytes of a disk that can be filled
STOPPED = 128 + signal.SIGTERM


@dataclass
class Outcome:
    """What one run went through, and where it differs from one that was left alone."""

    name: str
    steps: int
    interruptions: list[str]
    again: int = 0  # how many steps were done once more
    differences: dict[str, str] = field(default_factory=dict)  # what is compared -> the first place; "" where all is the same

    @property
    def same(self) -> bool:
        return bool(self.differences) and not any(self.differences.values())


def doctor(drill: bool = False, kills: int = 12) -> bool:
    """Print what this machine can do and, with `drill`, whether runs survive `kills` interruptions on it. False where one did not."""
    machine.show()
    if not drill:
        return True
    seed = random.SystemRandom().randrange(1 << 32)
    with tempfile.TemporaryDirectory(prefix="bessemer-drill-") as folder:
        outcomes = run(kills, seed, Path(folder))
    show(outcomes, seed)
    return all(outcome.same for outcome in outcomes)


def run(kills: int, seed: int, folder: Path, names: Sequence[str] = tuple(RUNS)) -> list[Outcome]:
    """`kills` interruptions in all, shared out among the named runs; `seed` chooses how and when. ValueError where there are none to share."""
    if kills < len(names):
        raise ValueError(f"{kills} kills are too few for {len(names)} runs: each wants one")
    draw, ways = random.Random(seed), itertools.cycle(WAYS)
    victim.write_tokens(folder / "tokens")
    outcomes = []
    with _disk(folder / "disk") as fillable, log.progress("drill", kills) as bar:
        for number, name in enumerate(names):
            share = kills // len(names) + (number < kills % len(names))
            trial = Trial(name, folder, APART * (share + 1), draw, fillable)
            outcomes.append(trial.survive([next(ways) for _ in range(share)], bar.advance))
    return outcomes


def show(outcomes: Sequence[Outcome], seed: int) -> None:
    """A table of what came out the same, and what each run went through."""
    what = [name for name in dict.fromkeys(name for outcome in outcomes for name in outcome.differences) if name != "exit"]
    table = Table("run", "steps", "again", *what, title=f"crash drill, seed {seed}")
    for outcome in outcomes:
        results = [outcome.differences.get(name, "not reached") or "same" for name in what]
        table.add_row(outcome.name, str(outcome.steps), str(outcome.again), *results)
        log.say(f"{outcome.name}: {', '.join(outcome.interruptions)}" + (f"; {outcome.differences['exit']}" if "exit" in outcome.differences else ""))
    Console().print(table)


class Trial:
    """One run, twice: left alone, and interrupted."""

    def __init__(self, name: str, folder: Path, steps: int, draw: random.Random, fillable: bool):
        self.name, self.folder, self.steps, self.draw, self.fillable = name, folder, steps, draw, fillable
        self.ranks = RUNS[name].mesh.ranks
        self.context = multiprocessing.get_context("forkserver")  # it has torch loaded: a start costs no seconds
        self.context.set_forkserver_preload([victim.__name__, store.__name__, shared.__name__])
        self.part = folder / "disk" / f"{name} killed"

    def survive(self, ways: Sequence[str], advance: Callable[[], None]) -> Outcome:
        outcome = Outcome(self.name, self.steps, [])
        if status := self._end(self._start("alone")):
            return self._failed(outcome, "left alone", status)
        for way in ways:
            status, words = {"write": self._write, "full": self._full, "term": self._term}.get(way, self._time)(way)
            outcome.interruptions.append(words)
            if status not in {"full": (FULL,), "term": (STOPPED,)}.get(way, (-signal.SIGKILL, 0)):
                return self._failed(outcome, words, status)
            advance()
        if status := self._end(self._start("killed")):
            return self._failed(outcome, "left alone at last", status)
        self._compare(outcome)
        return outcome

    def _start(self, which: str, end: End | None = None, dying: int = 0) -> Sequence[multiprocessing.process.BaseProcess]:
        """The processes of the run; `dying` is the rank that `end` is for."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = []
        for rank in range(self.ranks):
            given = (self.name, self.steps, self.folder / "tokens", self.folder / "disk" / f"{self.name} {which}", self._diary(which, rank))
            processes.append(self.context.Process(target=victim.run, args=(*given, rank, port, end if rank == dying else None), daemon=True))
            processes[-1].start()
        return processes

    def _diary(self, which: str, rank: int) -> Path:
        return self.folder / f"{self.name} {which} {rank}.txt"

    def _end(self, processes: Sequence[multiprocessing.process.BaseProcess]) -> int:
        """The exit status: of the first to end otherwise than well. As torchrun does, that ends the others."""
        limit, status = time.monotonic() + PATIENCE, 0
        while any(process.is_alive() for process in processes) and time.monotonic() < limit:
            time.sleep(0.005)
            if not status and (status := next((process.exitcode for process in processes if process.exitcode), 0)):
                limit = min(limit, time.monotonic() + (0 if status == -signal.SIGKILL else GRACE))
        late = [process for process in processes if process.is_alive()]
        for process in late:
            process.kill()
        for process in processes:
            process.join()
        return status or (-signal.SIGALRM if late else 0)

    def _write(self, way: str) -> tuple[int, str]:
        """Killed inside a checkpoint: at a call to the file system that this rank makes for it. The first rank makes most of them."""
        rank = self.draw.randrange(self.ranks)
        count = self.draw.randint(1, EVENTS if rank == 0 else 6)
        return self._end(self._start("killed", End("kill", count), rank)), f"{way} {count}"

    def _full(self, way: str) -> tuple[int, str]:
        """The disk is full: part of a checkpoint still fits."""
        if not self.fillable:
            count = self.draw.randint(1, EVENTS)
            return self._end(self._start("killed", End("full", count))), f"{way} at {count}"
        saved = self._newest()
        for unfinished in self.part.glob(f"{artifact.RUN}/resume/*{checkpoint.UNFINISHED}"):
            shutil.rmtree(unfinished)  # the run would, and have its room
        size = sum(path.stat().st_size for path in saved.iterdir()) if saved else 1 << 16
        left, ballast = self.draw.randrange(size), self.part.with_name("ballast")
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(ballast.parent).free - left)
        status = self._end(self._start("killed"))
        ballast.unlink()
        return status, f"{way} but {left >> 10} KB"

    def _term(self, way: str) -> tuple[int, str]:
        """One rank is told to stop: the run saves what it has done."""
        processes = self._start("killed")
        done = self._progress(processes, self.draw.randint(1, 6))
        os.kill(self.draw.choice(processes).pid or 0, signal.SIGTERM)
        status = self._end(processes)
        saved = self._newest()
        if status == STOPPED and (saved is None or int(saved.name[5:]) <= done):
            return 1, f"{way}: steps up to {done + 1} were done and not saved"
        return status, way

    def _time(self, way: str) -> tuple[int, str]:
        """Killed at any time; and then, perhaps, one bit of the newest checkpoint is another."""
        processes = self._start("killed")
        self._progress(processes, self.draw.randint(1, 6))
        time.sleep(self.draw.uniform(0, 0.03))
        self.draw.choice(processes).kill()
        status, words, saved = self._end(processes), way, self._newest()
        if way == "corrupt" and saved:
            path = self.draw.choice(sorted(saved.iterdir()))
            content = bytearray(path.read_bytes())
            content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
            path.write_bytes(content)
            words = f"{way} {path.name}"
        return status, words

    def _progress(self, processes: Sequence[multiprocessing.process.BaseProcess], steps: int) -> int:
        """Wait until the run has begun so many more steps, or ended. Returns the number of the last one."""
        begun, limit = len(_drawn(self._diary("killed", 0))), time.monotonic() + PATIENCE
        while True:
            ended = time.monotonic() > limit or not all(process.is_alive() for process in processes)
            if len(found := _drawn(self._diary("killed", 0))) >= begun + steps or ended:
                return found[-1] if found else -1
            time.sleep(0.001)

    def _newest(self) -> Path | None:
        return max((self.part / artifact.RUN / "resume").glob("step-????????"), default=None)

    def _failed(self, outcome: Outcome, when: str, status: int) -> Outcome:
        said = [self._diary(which, rank).with_suffix(".err") for which in ("alone", "killed") for rank in range(self.ranks)]
        last = [path.read_text().strip().rpartition("\n")[2] for path in said if path.is_file()]
        outcome.differences["exit"] = f"{when}: status {status}; {'; '.join(line for line in last if line)}"
        return outcome

    def _compare(self, outcome: Outcome) -> None:
        ends = [self.folder / "disk" / f"{self.name} {which}" for which in ("alone", "killed")]
        alone, killed = [checkpoint.read(end / artifact.RUN / "resume" / f"step-{self.steps:08d}")[0] for end in ends]
        for what, prefix in (("weights", state.WEIGHT), ("optimizer", state.MOMENT), ("state", state.EXTRA)):
            outcome.differences[what] = _different(alone, killed, prefix)
        for what in ("rows", "draws"):
            pairs = [[_lines(self._diary(which, rank), what) for which in ("alone", "killed")] for rank in range(self.ranks)]
            odd = [step for one, other in pairs for step, _ in one ^ other]
            outcome.differences[what] = f"step {min(odd)}" if odd else ""
        outcome.differences["losses"] = _first(*([_numbers(row) for row in log.read_metrics(end / artifact.RUN / METRICS)] for end in ends))
        outcome.again = sum(count - 1 for count in Counter(_drawn(self._diary("killed", 0))).values())


def _different(alone: dict[str, Tensor], killed: dict[str, Tensor], prefix: str) -> str:
    names = [name for name in sorted(alone.keys() | killed.keys()) if name.startswith(prefix)]
    same = (name in alone and name in killed and torch.equal(alone[name], killed[name]) for name in names)
    return next((name.removeprefix(prefix) for name, equal in zip(names, same, strict=True) if not equal), "")


def _first(alone: list[dict[str, float]], killed: list[dict[str, float]]) -> str:
    nothing: dict[str, float] = {}
    odd = (one or other for one, other in itertools.zip_longest(alone, killed, fillvalue=nothing) if one != other)
    return next((f"step {row['step']:g}" for row in odd), "")


def _numbers(row: dict[str, float]) -> dict[str, float]:
    """What a report says of the run, less what it says of the machine."""
    return {name: value for name, value in row.items() if name in ("step", "lr", "grad_norm") or name.endswith("loss")}


def _lines(diary: Path, what: str) -> set[tuple[int, str]]:
    """What a diary says of steps: one value each, if all went well."""
    return {(int(step), value) for step, kind, value in map(str.split, diary.read_text().splitlines()) if kind == what}


def _drawn(diary: Path) -> list[int]:
    """The steps a diary tells of, once for each time they were begun."""
    lines = diary.read_text().splitlines() if diary.is_file() else []
    return [int(words[0]) for words in map(str.split, lines) if len(words) == 3 and words[1] == "draws"]


@contextmanager
def _disk(folder: Path) -> Iterator[bool]:
    """A small disk at `folder`, where this user may have one; else an ordinary folder, and false."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)], capture_output=True).returncode == 0
    try:
        yield bool(done)
    finally:
        if done:
            subprocess.run(["umount", str(folder)], check=True)
