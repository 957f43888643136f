"""The same stage on this machine and on a Ray cluster gives the same bytes; errors and deadly documents end alike on both."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bessemer.core import workers
from bessemer.core.workers import Job

ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")

# Each job writes what it was given; a worker is a new process, so it must find the function in a file of its own.
WORK = """
import os, signal

def writes(source, out, skip, at):
    for at.value in range(4):
        if at.value == 2 and source.name == "deadly" and 2 not in dict(skip):
            os.kill(os.getpid(), signal.SIGSEGV)
    (out / source.name).write_text(source.read_text().upper() + repr(skip))

def fails(source, skip, at):
    raise OSError(28, "No space left on device", str(source))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A cluster of this machine alone. Its memory monitor looks at the whole machine, where neighbours may fill it."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "on_a_cluster.py").write_text(WORK)
    sys.path.insert(0, str(folder))
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_memory_monitor_refresh_ms", "0")
    patch.setenv("PYTHONPATH", str(folder))
    yield importlib.import_module("on_a_cluster")
    patch.undo()
    ray.shutdown()
    sys.path.remove(str(folder))


def jobs(folder: Path, out: Path, names: list[str]) -> list[Job]:
    out.mkdir()
    for name in names:
        (folder / name).write_text(f"shard {name}")
    return [Job((folder / name, out), 4) for name in names]


def test_the_same_files_here_and_on_a_cluster(tmp_path: Path, cluster: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a", "deadly", "c", "d", "e"]
    workers.run(cluster.writes, jobs(tmp_path, tmp_path / "here", names), 2, "test")
    monkeypatch.setenv(workers.CLUSTER, "local")
    monkeypatch.chdir(tmp_path)  # a relative path means the same there
    workers.run(
        cluster.writes, [Job((Path(name), Path("there")), 4) for name in names if (tmp_path / "there").mkdir(exist_ok=True) is None], 0, "test"
    )
    made = {path.name: path.read_text() for path in (tmp_path / "here").iterdir()}
    assert {path.name: path.read_text() for path in (tmp_path / "there").iterdir()} == made
    assert made["a"] == "SHARD A()" and made["deadly"] == "SHARD DEADLY((2, 'parser crashed: SIGSEGV'),)"


def test_an_error_arrives_from_a_cluster(tmp_path: Path, cluster: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(workers.CLUSTER, "local")
    with pytest.raises(OSError, match="No space left on device"):
        workers.run(cluster.fails, [Job((tmp_path / "full",), 1)], 1, "test")


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, cluster: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    if ray.is_initialized():
        ray.shutdown()
    monkeypatch.setenv(workers.CLUSTER, "127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"no Ray cluster at '127.0.0.1:1'"):
        workers.run(cluster.fails, [Job((tmp_path / "full",), 1)], 1, "test")
