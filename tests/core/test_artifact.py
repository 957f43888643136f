import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from bessemer.core import artifact
from bessemer.core.config import Count, runtime
from bessemer.core.stage import Stage

CALLS = []


@dataclass(frozen=True)
class CopyConfig:
    times: Count = 1
    workers: Count = runtime(1)
    content: ClassVar[tuple[str, ...]] = ("text",)


def copy(source: Path, *, out: Path, cfg: CopyConfig) -> dict[str, float]:
    CALLS.append(out)
    text = (source / "text" if source.is_dir() else source).read_text()
    (out / "text").write_text(text * cfg.times)
    (out / "dates").write_text(str(time.time_ns()))
    return {"characters": len(text) * cfg.times}


STAGE = Stage.of(copy)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "input.txt"
    path.write_text("abc")
    return path


def make(folder: Path, source: Path, **cfg) -> Path:
    return artifact.make(STAGE, {"source": source}, CopyConfig(**cfg), folder)


def test_an_artifact_is_made_once_and_says_how(tmp_path: Path, source: Path):
    CALLS.clear()
    first, second = make(tmp_path / "a", source), make(tmp_path / "a", source)
    assert first == second and len(CALLS) == 1
    manifest = artifact.read_manifest(first)
    assert manifest and manifest["numbers"] == {"characters": 3} and manifest["config"] == {"times": 1, "workers": 1}
    assert manifest["files"]["text"]["bytes"] == 3
    assert not (tmp_path / "a.part").exists()


def test_keys_follow_content_not_names_or_speed(tmp_path: Path, source: Path):
    def key(path: Path, **cfg) -> str:
        return artifact.key_of(STAGE, {"source": path}, CopyConfig(**cfg))

    moved = tmp_path / "elsewhere.txt"
    moved.write_text("abc")
    assert key(source) == key(moved) == key(source, workers=8)
    assert key(source) != key(source, times=2)
    moved.write_text("abd")
    assert key(source) != key(moved)


def test_an_upstream_that_comes_out_the_same_reruns_nothing(tmp_path: Path, source: Path):
    """Two artifacts made at other times, whose content files agree, have one digest: `dates` is only bookkeeping."""
    a, b = make(tmp_path / "a", source), make(tmp_path / "b", source)
    assert (a / "dates").read_text() != (b / "dates").read_text()
    assert artifact.digest(a) == artifact.digest(b)
    assert artifact.key_of(STAGE, {"source": a}, CopyConfig()) == artifact.key_of(STAGE, {"source": b}, CopyConfig())


def test_ancestors_reach_back_to_the_first_input_from_one_folder(tmp_path: Path, source: Path):
    last = make(tmp_path / "c", make(tmp_path / "b", make(tmp_path / "a", source)), times=2)
    moved = tmp_path / "sent to a friend"
    last.rename(moved)
    assert [manifest["name"] for manifest in artifact.ancestors(moved)] == ["c", "b", "a"]
    assert artifact.ancestors(moved)[-1]["inputs"]["source"][0]["path"] == str(source)


def test_another_result_is_never_overwritten(tmp_path: Path, source: Path):
    make(tmp_path / "a", source)
    with pytest.raises(FileExistsError, match="already holds another result"):
        make(tmp_path / "a", source, times=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not an artifact"):
        make(tmp_path / "mine", source)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_missing_input_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere.txt does not exist"):
        make(tmp_path / "a", tmp_path / "nowhere.txt")


def test_a_failed_stage_leaves_no_artifact_but_keeps_its_part(tmp_path: Path, source: Path):
    def fail(source: Path, *, out: Path, cfg: CopyConfig) -> dict[str, float]:
        (out / "half").write_text("half")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        artifact.make(Stage.of(fail), {"source": source}, CopyConfig(), tmp_path / "a")
    assert not (tmp_path / "a").exists() and (tmp_path / "a.part" / "half").exists()


KILLED = """
import sys, time
from pathlib import Path
from bessemer.core import artifact
from bessemer.core.stage import Stage
from dataclasses import dataclass

@dataclass(frozen=True)
class Cfg:
    parts: int = 40

def slow(*, out: Path, cfg: Cfg) -> dict[str, float]:
    made = 0
    for number in range(cfg.parts):
        if not (out / str(number)).exists():
            time.sleep(0.02)
            made += 1
            with artifact.atomic(out / str(number)) as temporary:
                temporary.write_text(str(number))
    return {"made_now": made}

artifact.make(Stage.of(slow), {}, Cfg(), Path(sys.argv[1]))
"""


def test_a_killed_stage_goes_on_and_two_cannot_work_at_once(tmp_path: Path):
    folder, command = tmp_path / "a", [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    part = tmp_path / "a.part"
    while not (part / "3").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    second = subprocess.run(command, capture_output=True, text=True)
    assert "another process is working on" in second.stderr
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "continuing a.part" in again.stderr
    manifest = json.loads((folder / "manifest.json").read_text())
    assert 0 < manifest["numbers"]["made_now"] <= 37 and len(manifest["files"]) == 40


def test_no_space_left_is_an_error_that_names_the_file(tmp_path: Path, source: Path):
    """The kernel's own ENOSPC, from the device that is always full."""
    (tmp_path / "text.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="no space left on the disk: .*text'"), artifact.atomic(tmp_path / "text") as temporary:
        temporary.write_text("x")
    assert not (tmp_path / "text").exists()


def test_a_kill_between_the_last_two_steps_costs_nothing(tmp_path: Path, source: Path):
    """The manifest is written, the rename is not: the work is done and is not done again."""
    make(tmp_path / "a", source).rename(tmp_path / "a.part")
    CALLS.clear()
    assert make(tmp_path / "a", source) == tmp_path / "a" and not CALLS
    assert (tmp_path / "a" / "text").read_text() == "abc"


def test_a_folder_that_only_looks_like_unfinished_work_is_left_alone(tmp_path: Path, source: Path):
    (tmp_path / "a.part").mkdir()
    (tmp_path / "a.part" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"a\.part exists and is not unfinished work of Bessemer"):
        make(tmp_path / "a", source)
    assert (tmp_path / "a.part" / "thesis.txt").exists()


def test_scratch_of_a_finished_artifact_is_dropped(tmp_path: Path, source: Path):
    def leave(source: Path, *, out: Path, cfg: CopyConfig) -> dict[str, float]:
        (out / "run" / "resume").mkdir()
        (out / "run" / "resume" / "state").write_text("large")
        (out / "text").write_text("x")
        return {}

    folder = artifact.make(Stage.of(leave), {"source": source}, CopyConfig(), tmp_path / "a")
    assert not (folder / "run" / "resume").exists() and not list(tmp_path.glob(".*.lock"))
