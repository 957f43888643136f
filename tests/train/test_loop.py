"""The loop's promises: nothing depends on micro-batches or ranks, a killed run continues bit for bit, and it learns."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bessemer.core import log
from bessemer.model.model import Model
from bessemer.train.loop import FitConfig, fit, results
from bessemer.train.objective import predict
from tests.train import runs

COMMAND = [sys.executable, str(Path(runs.__file__))]
SEEDLESS = ("tokens_per_second", "mfu")


def numbers(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in SEEDLESS} for row in rows]


@pytest.mark.parametrize("name", runs.RUNS)
def test_the_result_does_not_depend_on_the_micro_batch(name: str, tmp_path: Path):
    whole, rows = runs.train(tmp_path / "whole", 3, name)
    for size in (1, 3):
        split, split_rows = runs.train(tmp_path / str(size), 3, name, micro_batch=size)
        for a, b in zip(whole.parameters(), split.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
        for a, b in zip(numbers(rows), numbers(split_rows), strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run in two real gloo processes, each with its own rows and micro-batches of another size."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, str(folder), "6", ",".join(runs.RUNS), "3"]
    ranks = [subprocess.Popen(command, env={**environment, "RANK": str(rank)}) for rank in range(2)]
    assert [rank.wait(240) for rank in ranks] == [0, 0]
    return folder


@pytest.mark.parametrize("name", runs.RUNS)
def test_two_ranks_are_one(name: str, two_ranks: Path, tmp_path: Path):
    whole, rows = runs.train(tmp_path, 6, name)
    end = torch.load(two_ranks / name / "end.pt")
    for key, weight in whole.state_dict().items():
        torch.testing.assert_close(end["weights"][key], weight, atol=2e-5, rtol=1e-4)
    losses = [sum(v for k, v in row.items() if k.endswith("loss") and not k.startswith("val_")) for row in rows]
    assert end["losses"] == pytest.approx(losses, rel=1e-4)


def test_a_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path: Path):
    subprocess.run([*COMMAND, str(tmp_path / "whole"), "400", "predict"], check=True, capture_output=True)
    kills = 0
    for target in (37, 203):
        process = subprocess.Popen([*COMMAND, str(tmp_path / "killed"), "400", "predict"], stderr=subprocess.DEVNULL)
        metrics = tmp_path / "killed" / "predict" / "run" / "metrics.jsonl"
        while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < target):
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 2 and not (tmp_path / "killed" / "predict" / "end.pt").exists()
    subprocess.run([*COMMAND, str(tmp_path / "killed"), "400", "predict"], check=True, capture_output=True)
    whole, killed = (torch.load(tmp_path / name / "predict" / "end.pt")["weights"] for name in ("whole", "killed"))
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
    rows = [numbers(log.read_metrics(tmp_path / name / "predict" / "run" / "metrics.jsonl")) for name in ("whole", "killed")]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == list(range(1, 401))


def test_the_same_seed_gives_the_same_losses(tmp_path: Path):
    assert numbers(runs.train(tmp_path / "a", 8)[1]) == numbers(runs.train(tmp_path / "b", 8)[1])


# Steps, learning rate and the held-out loss to reach. By chance it is ln 50 = 3.9, for copying ln 19 = 2.9, for a pair ln 2 more.
LEARNT = {"predict": (400, 2e-2, 0.3), **dict.fromkeys(("experts", "balanced", "rwkv", "rwkv4", "lstm"), (60, 2e-2, 1.0))}
LEARNT |= {"masked": (200, 1e-2, 1.2), "copied": (200, 1e-2, 1.3)}


@pytest.mark.parametrize("name", LEARNT)
def test_it_learns(name: str, tmp_path: Path):
    steps, rate, wanted = LEARNT[name]
    _, rows = runs.train(tmp_path, steps, name, lr=rate, log_every=steps, eval_every=steps, save_every=steps)
    assert sum(value for term, value in rows[-1].items() if term.startswith("val_") and term.endswith("loss")) < wanted


def test_preferences_are_learnt(tmp_path: Path):
    _, rows = runs.train(tmp_path, 60, "prefer")
    assert rows[-1]["val_accuracy"] == 1.0 and rows[-1]["val_margin"] > rows[0]["margin"] + 1


def test_compiled_equals_eager(tmp_path: Path):
    eager, rows = runs.train(tmp_path / "eager", 5)
    compiled, compiled_rows = runs.train(tmp_path / "compiled", 5, compile=True)
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert [row["loss"] for row in compiled_rows] == pytest.approx([row["loss"] for row in rows], rel=1e-4)


def test_reported_means_are_the_weighted_means(tmp_path: Path):
    """The first step's loss by hand: sum of loss times weight over sum of weight, with the untrained model."""
    batch, model = runs.tokens(0), runs.model()
    expected = (predict(model, batch)["loss"] * batch["token_weight"]).sum() / batch["token_weight"].sum()
    assert runs.train(tmp_path, 1)[1][0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path):
    def objective(model: Model, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        terms = predict(model, batch)
        return {"loss": terms["loss"] * (math.nan if int(batch["step"][0]) == 12 else 1.0)}

    def source(step: int) -> dict[str, torch.Tensor]:
        return {**runs.tokens(step), "step": torch.full((8,), step)}

    cfg = FitConfig(steps=20, batch=8, precision="fp32", compile=False, save_every=5)
    with pytest.raises(FloatingPointError, match="loss is nan .* at step 13; the last good checkpoint is kept in"):
        list(fit(runs.model(), objective, source, cfg, tmp_path))
    assert torch.load(tmp_path / "run" / "resume" / "state.pt")["step"] == 10


def test_a_step_without_weight_is_refused(tmp_path: Path):
    def source(step: int) -> dict[str, torch.Tensor]:
        return {**runs.tokens(step), "token_weight": torch.zeros(8, 32)}

    with pytest.raises(ValueError, match="every token of its rows is masked out"):
        list(fit(runs.model(), predict, source, FitConfig(steps=2, batch=8, precision="fp32", compile=False), tmp_path))


def test_results_are_read_from_disk_so_a_late_kill_changes_nothing(tmp_path: Path):
    runs.train(tmp_path, 7)
    before = results(tmp_path)
    _, rows = runs.train(tmp_path, 7)  # goes on from its last checkpoint: nothing is left to do
    assert rows == [] and results(tmp_path) == before and before["val_loss"] > 0


def test_a_run_goes_on_in_the_precision_it_began_with(tmp_path: Path):
    runs.train(tmp_path, 5, precision="bf16")
    state = torch.load(tmp_path / "run" / "resume" / "state.pt")
    assert state["dtype"] is torch.bfloat16
    runs.train(tmp_path, 10, precision="fp32")
    assert torch.load(tmp_path / "run" / "resume" / "state.pt")["dtype"] is torch.bfloat16


@pytest.mark.parametrize("name", ["predict", "balanced", "ahead", "masked", "copied", "rwkv", "rwkv4"])
def test_bf16_trains_as_fp32_does(name: str, tmp_path: Path):
    """The first steps' losses within 2 %, weights in fp32."""
    _, rows = runs.train(tmp_path / "fp32", 4, name)
    model, found = runs.train(tmp_path / "bf16", 4, name, precision="bf16")
    for a, b in zip(rows, found, strict=True):
        costs = [term for term in a if term.endswith("loss")]
        assert [b[term] for term in costs] == pytest.approx([a[term] for term in costs], rel=0.02)
    assert rows[-1] != found[-1] and all(weight.dtype == torch.float32 for weight in model.parameters())


def test_muon_learns_and_resumes(tmp_path: Path):
    whole, rows = runs.train(tmp_path / "whole", 40, optimizer="muon")
    assert rows[-1]["val_loss"] < rows[0]["loss"] - 1
    _, objective, source = runs.RUNS["predict"]
    cfg = FitConfig(steps=40, batch=8, precision="fp32", compile=False, log_every=1, save_every=5, lr=1e-2, optimizer="muon")
    for row in fit(runs.model(), objective, source, cfg, tmp_path / "cut"):
        if row["step"] == 22:
            break
    again, _ = runs.train(tmp_path / "cut", 40, optimizer="muon")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
