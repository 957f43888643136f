"""Work in processes: a place that kills its process is skipped, an error arrives, nothing is done twice."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from bessemer.core import config, workers
from bessemer.corpus.dedup.near import DedupConfig
from bessemer.corpus.extract.pages import ExtractConfig
from bessemer.corpus.filters.text import CleanConfig

# Functions for workers to run. A worker is a new process: it must find them in a file of their own.
DEADLY = """
import json, os, signal, sys, time
from pathlib import Path
from bessemer.core import workers

def dies(source, out, skip, at):
    known = dict(skip)
    for at.value in range(8):
        if at.value == 3 and 3 not in known:
            workers.limit(0.1)
            while True:
                pass
        if at.value == 5 and 5 not in known:
            os.kill(os.getpid(), signal.SIGSEGV)
    (out / "done").write_text(json.dumps(skip))

def fails(source, skip, at):
    raise OSError(28, "No space left on device", str(source)) if source.name == "full" else SystemExit(3)

def quotes(source, skip, at):
    ("x" * 3_000_000 + "\\ud800").encode()

def lasts(source, skip, at):
    for n in range(600):
        source.write_text(str(n))
        time.sleep(0.1)

if __name__ == "__main__":
    workers.here(lasts, [workers.Job((Path(sys.argv[1]),), 1)], 1, lambda units: None)
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "deadly", raising=False)
    return importlib.import_module("deadly")


def test_a_page_that_hangs_or_crashes_costs_only_itself(tmp_path: Path, deadly: ModuleType) -> None:
    workers.run(deadly.dies, [workers.Job((tmp_path, tmp_path), 8)], 1, "test")
    assert json.loads((tmp_path / "done").read_text()) == [[3, "time limit"], [5, "parser crashed: SIGSEGV"]]


def test_errors_of_workers_arrive(tmp_path: Path, deadly: ModuleType) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        workers.run(deadly.fails, [workers.Job((tmp_path / "full",), 1)], 1, "test")
    with pytest.raises(RuntimeError, match=r"a worker died \(exit code 3\) on .*other"):
        workers.run(deadly.fails, [workers.Job((tmp_path / "other",), 1)], 1, "test")


def test_an_error_that_quotes_megabytes_arrives(tmp_path: Path, deadly: ModuleType) -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        workers.run(deadly.quotes, [workers.Job((tmp_path,), 1)], 1, "test")
    assert len(caught.value.object) == 3_000_001


def test_workers_end_with_a_stage_that_is_killed(tmp_path: Path, deadly: ModuleType) -> None:
    process = subprocess.Popen([sys.executable, str(tmp_path / "deadly.py"), str(tmp_path / "n")])
    while not (tmp_path / "n").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    before = (tmp_path / "n").read_text()
    time.sleep(0.5)
    assert (tmp_path / "n").read_text() == before, "nobody is working any more"


@pytest.mark.parametrize("cls", [ExtractConfig, CleanConfig, DedupConfig])
def test_fewer_workers_than_none_are_refused(cls: type) -> None:
    with pytest.raises(ValueError, match=r"stage\.workers: .*greater than or equal to 0"):
        config.parse(cls, {"workers": -1}, "stage")
