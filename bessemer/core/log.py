"""What a person sees while work goes on (progress, ETA, messages) and what a plot needs afterwards (metrics.jsonl)."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True, highlight=False)
LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal to draw a bar on


def say(message: str) -> None:
    """One line for the user."""
    console.print(message, markup=False, soft_wrap=True)


class Bar:
    """Progress of one piece of work: a live bar on a terminal, a line now and then in a log file."""

    def __init__(self, label: str, total: float | None, done: float, live: Progress | None):
        self.label, self.total, self.done, self.note = label, total, done, ""
        self.live = live
        self.task = live.add_task(label, total=total, completed=int(done), note="") if live else None
        self.began, self.first, self.last = time.monotonic(), done, time.monotonic()

    def advance(self, by: float = 1, note: str | None = None, total: float | None = None) -> None:
        """`by` more units are done; `note` replaces what stands behind the bar, `total` how many there are."""
        self.total = total or self.total
        self.done += by
        self.note = self.note if note is None else note
        if self.live and self.task is not None:
            self.live.update(self.task, completed=self.done, total=self.total, note=self.note)
        elif time.monotonic() - self.last >= LINE_EVERY:
            self.last = time.monotonic()
            say(f"{self.label}: {self._where()} {self.note}".rstrip())

    def _where(self) -> str:
        spent = time.monotonic() - self.began
        if not self.total:
            return f"{self.done:g} in {spent:.0f}s"
        so_far = f"{self.done:g}/{self.total:g} ({100 * self.done / self.total:.0f}%)"
        if self.done <= self.first:
            return f"{so_far} after {spent:.0f}s"
        return f"{so_far}, {(self.total - self.done) * spent / (self.done - self.first):.0f}s left"


@contextmanager
def progress(label: str, total: float | None = None, done: float = 0) -> Iterator[Bar]:
    """Show how far the work in the block has come and how long it still takes."""
    if not sys.stderr.isatty():
        yield Bar(label, total, done, None)
        return
    columns = [TextColumn("{task.description:<12}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as live:
        yield Bar(label, total, done, live)


def track(items: Iterable[T], label: str, total: float | None = None) -> Iterator[T]:
    """Iterate with a progress bar."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with progress(label, total) as bar:
        for item in items:
            yield item
            bar.advance()


class Metrics:
    """Numbers by step, one JSON object a line. Opening it at `step` forgets what a killed run wrote from there on."""

    def __init__(self, path: Path, step: int = 0):
        kept = [row for row in read_metrics(path) if row["step"] < step] if path.exists() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        rewound = path.with_name(path.name + ".tmp")
        rewound.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        rewound.replace(path)
        self.file = path.open("a", encoding="utf-8")

    def write(self, step: int, **numbers: Any) -> None:
        self.file.write(json.dumps({"step": step, **numbers}) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a metrics file; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows
