"""The GPU check as one command, on a CPU with small sizes, and what it does where something is wrong."""

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]
ENOUGH = {"torch", "numpy", "safetensors", "tokenizers"}
# Takes away all that a bare machine lacks, then runs the script as `python benchmarks/gpu.py` would.
BARE = """
import runpy, sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
sys.path.insert(0, "benchmarks")
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import gpu

    yield gpu
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def run(gpu: ModuleType):
    return gpu.Run(torch.device("cpu"), tiny=True, compile=False, deadline=time.monotonic() + 100)


@pytest.mark.slow
def test_one_command_with_four_packages(tmp_path: Path) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {line.split(">")[0].split("[")[0].strip().replace("-", "_") for line in declared}
    assert names > ENOUGH
    command = [sys.executable, "-c", BARE, ",".join(names - ENOUGH), "--device", "cpu", "--sizes", "tiny", "--eager", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    (file,) = tmp_path.glob("gpu-*.json")
    found = json.loads(file.read_text())
    assert {"pydantic", "annotated_types", "rich"} <= set(found["about"]["stood in for"])
    assert all(found["about"][name] for name in ("device", "date", "torch", "numpy", "python", "bessemer"))
    assert list(found["sections"]) == ["machine", "correct", "train", "variants", "profile", "kernels"]
    rows = {row["name"]: row for section in found["sections"].values() for row in section}
    assert not [row for row in rows.values() if "failed" in row or "left out" in row]
    assert all(row["right"] for row in found["sections"]["correct"])
    assert {"decoder fp32", "attention documents", "generation", "fit muon fp32", "shape experts"} <= rows.keys()
    speed = rows["1B bf16, 2 rows"]
    rate = rows["bf16"]["TFLOP/s"]
    assert speed["tokens/s"] > 0 and speed["MFU"] == pytest.approx(speed["TFLOP/s"] / rate)
    assert rows["step"]["ms"] == pytest.approx(sum(row["ms"] for name, row in rows.items() if "share" in row and not name.startswith("kernel ")))


def test_a_wrong_kernel_is_called_wrong(gpu, run, monkeypatch) -> None:
    import gpu_correct

    checks = gpu_correct.checks(run)
    names = ("attention causal", "cross-entropy float32", "decoder fp32")
    assert all(row["right"] for row in run.rows({name: checks[name] for name in names}))
    right, plain = gpu_correct.attend, gpu_correct.cross_entropy
    monkeypatch.setattr(gpu_correct, "attend", lambda query, key, value, see: right(query, key, value, see._replace(window=200)))
    wrong = lambda hidden, weight, bias, targets: 1.001 * plain(hidden @ weight.T, targets)  # noqa: E731
    monkeypatch.setattr(gpu_correct, "head_cross_entropy", wrong)
    assert [row["right"] for row in run.rows({name: checks[name] for name in names[:2]})] == [False, False]
    assert not gpu_correct._judged([torch.tensor([torch.nan])], [torch.ones(1)], 1.0)["right"]


def test_a_failing_item_loses_no_other_and_time_ends_it(gpu, run, capsys) -> None:
    def fails() -> dict:
        raise RuntimeError("no kernel\nfor this")

    found = list(run.rows({"one": lambda: {"ms": 1.0}, "two": fails, "three": lambda: {"ms": 3.0}}))
    assert found == [{"name": "one", "ms": 1.0}, {"name": "two", "failed": "RuntimeError: no kernel for this"}, {"name": "three", "ms": 3.0}]
    assert "no kernel for this" in capsys.readouterr().out
    run.deadline = time.monotonic() + 10
    (row,) = run.rows({"long": lambda: {"ms": 1.0}}, needs=30.0)
    assert row == {"name": "long", "left out": "no time"}


def test_the_largest_micro_batch_that_fits(gpu, run, monkeypatch) -> None:
    tried = []

    def speed(run, size: str, micro: int) -> dict:
        tried.append(micro)
        if micro > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return {"rows": micro}

    monkeypatch.setattr(gpu, "speed", speed)
    assert gpu.largest(run, "1B") == {"rows": 2}
    assert tried == [4, 2]


def test_sizes_are_what_they_are_called(gpu) -> None:
    for name, millions in {"124M": 124, "350M": 360, "1B": 1050}.items():
        assert gpu.count.parameters(gpu.FULL[name].model) / 1e6 == pytest.approx(millions, rel=0.02)


def test_packed_rows_begin_anew_with_each_document(gpu) -> None:
    size = gpu.Size(gpu.decoder(32, 1, 2, 1, 64, 4096, vocab=64), 2, (2,))
    batch = gpu.source(size, documents=True)(3)
    begins = batch["segment"].diff(dim=1, prepend=torch.zeros(2, 1)) > 0
    assert begins[:, 0].all() and 4 < begins.sum() < 40
    assert torch.equal(batch["at"] == 0, begins)
    assert (batch["at"].diff(dim=1)[~begins[:, 1:]] == 1).all()


def test_sections_of_one_day_stand_side_by_side(gpu, tmp_path) -> None:
    file, now = tmp_path / "found.json", {"torch": "2.11", "date": "noon"}
    assert gpu._begun(file, now) == {"about": now, "best": None, "sections": {}}
    file.write_text(json.dumps({"about": {"torch": "2.11", "date": "morning"}, "best": 8, "sections": {"train": []}}))
    assert gpu._begun(file, now) == {"about": now, "best": 8, "sections": {"train": []}}
    assert gpu._begun(file, {**now, "torch": "2.12"})["sections"] == {}
