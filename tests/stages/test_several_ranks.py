"""A stage on several processes: started by us, by torchrun from outside, ended by signals, gone on with on another number."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bessemer.core import artifact
from bessemer.data import checkpoint
from bessemer.stages import find
from bessemer.stages.convert import ConvertConfig
from tests.stages.test_pretrain import TEXTS, trained, written

pytestmark = pytest.mark.slow
TABLE = """
[base]
stage = "pretrain"
tokens = "{tokens}"
tokenizer = "{words}"
width = 32
depth = 2
heads = 4
kv_heads = 2
hidden = 48
context = 32
steps = {steps}
batch = 4
lr = 1e-2
compile = false
precision = "fp32"
held_out = 4
log_every = 2
eval_every = 10
save_every = 5
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    words = trained(folder / "words", TEXTS)
    return {"words": words, "tokens": written(folder / "tokens", words)}


def recipe(folder: Path, inputs: dict[str, Path], mesh: str, steps: int = 20) -> list[str]:
    """The command line that runs it, in `folder`."""
    path = folder / "base.toml"
    path.write_text(TABLE.format(**inputs, steps=steps) + mesh)
    return [sys.executable, "-m", "bessemer", "run", str(path), "--store", str(folder / "store")]


def made(folder: Path) -> Path:
    (found,) = [path.parent for path in (folder / "store").glob("base-*/manifest.json")]
    return found


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def alone(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert run(recipe(folder, inputs, "")).returncode == 0
    return made(folder)


def same(found: Path, alone: Path) -> None:
    assert found.name == alone.name  # the key: how many processes there were is no part of it
    ours, theirs = (load_file(path / "model.safetensors") for path in (found, alone))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert (ours[name] - weight).abs().max() < 1e-4, name
    numbers = [artifact.read_manifest(path)["numbers"]["val_bits_per_byte"] for path in (found, alone)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


def test_bessemer_run_starts_the_processes_of_a_stage(inputs: dict[str, Path], alone: Path, tmp_path: Path):
    done = run(recipe(tmp_path, inputs, "mesh = { ranks = 2, zero = 2 }\n"))
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    same(made(tmp_path), alone)


def test_a_run_that_torchrun_started_is_one_run(inputs: dict[str, Path], alone: Path, tmp_path: Path):
    words = recipe(tmp_path, inputs, "")[1:]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = run([*launcher, *words])
    assert done.returncode == 0, done.stderr
    same(made(tmp_path), alone)
    assert done.stdout.count("-> base-") == 1  # one rank talks


def test_sigterm_saves_and_another_number_of_processes_goes_on(inputs: dict[str, Path], tmp_path: Path):
    """120 steps, told to stop after 30 or so of them on two processes; one process does the rest, from where they were."""
    command = recipe(tmp_path, inputs, "mesh = { ranks = 2 }\n", 120)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        while not (rows := list((tmp_path / "store").glob("*.part/run/metrics.jsonl"))) or rows[0].read_text().count("\n") < 15:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 143, said
    assert "stopped at step" in said
    (part,) = (tmp_path / "store").glob("*.part")
    last = max(int(path.name[5:]) for path in (part / "run" / "resume").glob("step-*"))
    before = [json.loads(line)["step"] for line in (part / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 30 <= last < 120 and max(before) <= last

    opened = artifact.make(find("convert"), {"model": part}, ConvertConfig(), tmp_path / "opened")
    assert artifact.read_manifest(opened)["numbers"]["step"] == last and checkpoint.load(opened)[0].cfg.depth == 2

    again = run(recipe(tmp_path, inputs, "", 120))
    assert again.returncode == 0 and "continuing" in again.stderr, again.stderr
    steps = [json.loads(line)["step"] for line in (made(tmp_path) / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps[: len(before)] == before and steps[-1] == 120 and len(steps) == len(set(steps))


def test_a_process_that_dies_is_started_again(inputs: dict[str, Path], tmp_path: Path):
    command = recipe(tmp_path, inputs, "mesh = { ranks = 2 }\n", 120)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (rows := list((tmp_path / "store").glob("*.part/run/metrics.jsonl"))) or rows[0].read_text().count("\n") < 15:
            assert process.poll() is None
            time.sleep(0.05)
        lines = {int(path.parent.name): _line(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
        ranks = [
            pid for pid, line in lines.items() if b"bessemer.core.launch" in line and b"--standalone" not in line and str(tmp_path).encode() in line
        ]
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    steps = [json.loads(line)["step"] for line in (made(tmp_path) / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 120 and steps == sorted(set(steps))


def _line(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_what_is_wrong_is_one_line_whichever_process_says_it(inputs: dict[str, Path], tmp_path: Path):
    """A mesh that the model does not divide by is refused before any work; what only the processes can see, by them: tokens of another
    tokenizer."""
    done = run(recipe(tmp_path, inputs, "mesh = { ranks = 3, tensor = 3 }\n"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "tensor (3) must divide heads (4)" in done.stderr
    other = trained(tmp_path / "other", [text.upper() for text in TEXTS])
    done = run(recipe(tmp_path, inputs | {"words": other}, "mesh = { ranks = 2 }\n"))
    assert done.returncode == 1 and "was not encoded by this tokenizer" in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr.splitlines()[-1]
