"""The loop's promises: nothing depends on micro-batches or ranks, a killed run continues bit for bit, and it learns."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bessemer.core import log
from bessemer.model.model import Model
from bessemer.train.loop import FitConfig, fit, results
from bessemer.train.objective import Objective, predict
from tests.train import runs

COMMAND = [sys.executable, str(Path(runs.__file__))]
MACHINES = ("tokens_per_second", "mfu", "tflops", "peak_tflops", "memory", "energy", "carbon")  # not the same twice


def numbers(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.startswith(MACHINES)} for row in rows]


def newest(folder: Path) -> int:
    """The step of the newest checkpoint."""
    return max(int(path.name.removeprefix("step-")) for path in (folder / "run" / "resume").glob("step-*"))


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
    runs.launched(2, "tests.train.runs", str(folder), "6", ",".join(runs.RUNS), "3")
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


def bad(when: range) -> Objective:
    """Whose loss is no number at these steps."""

    def objective(model: Model, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        terms = predict(model, batch)
        return {"loss": terms["loss"] * (math.nan if int(batch["step"][0]) in when else 1.0)}

    return objective


def numbered(step: int) -> dict[str, torch.Tensor]:
    return {**runs.tokens(step), "step": torch.full((8,), step)}


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path):
    cfg = FitConfig(steps=20, batch=8, precision="fp32", compile=False, save_every=5, bad_step="stop")
    with pytest.raises(FloatingPointError, match="loss is nan .* at step 13; the last good checkpoint is kept in"):
        list(fit(runs.model(), bad(range(12, 13)), numbered, cfg, tmp_path))
    assert newest(tmp_path) == 10


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_bad_step_is_left_out_as_if_it_had_not_been(optimizer: str, tmp_path: Path):
    """The steps before it and after it come to the same weights as without it, at a constant rate."""
    cfg = FitConfig(steps=6, batch=8, precision="fp32", compile=False, log_every=1, warmup=0.0, decay=0.0, optimizer=optimizer, ema=0.9)
    with_it, without = runs.model(), runs.model()
    rows = list(fit(with_it, bad(range(3, 4)), numbered, cfg, tmp_path / "with"))
    list(fit(without, bad(range(0)), lambda step: numbered(step + (step >= 3)), replace(cfg, steps=5), tmp_path / "without"))
    for a, b in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [row.get("skipped", 0) for row in rows] == [0, 0, 0, 1, 1, 1]


def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path: Path):
    cfg = FitConfig(steps=20, batch=8, precision="fp32", compile=False, patience=4)
    with pytest.raises(FloatingPointError, match="at step 9, the last of 4 bad steps in a row"):
        list(fit(runs.model(), bad(range(5, 20)), numbered, cfg, tmp_path))


def test_half_precision_finds_its_loss_scale_and_learns(tmp_path: Path):
    """Losses are 40,000 times too large for a scale of 2^16, so the first steps are left out."""
    _, rows = runs.train(tmp_path / "fp32", 30)
    model, halves = runs.train(tmp_path / "fp16", 30, precision="fp16")
    assert halves[0]["loss"] == pytest.approx(rows[0]["loss"], rel=0.01) and halves[-1]["val_loss"] == pytest.approx(rows[-1]["val_loss"], rel=0.05)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_recomputing_the_blocks_changes_nothing(tmp_path: Path):
    whole, rows = runs.train(tmp_path / "kept", 4)
    again, found = runs.train(tmp_path / "recomputed", 4, recompute=True)
    assert numbers(rows) == numbers(found)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_the_average_is_what_is_evaluated_and_kept(tmp_path: Path):
    """With a decay of 0.5 and constant steps by hand: the mean of all weights so far, each half as heavy as the one after it."""
    seen: list[torch.Tensor] = []
    cfg = FitConfig(steps=12, batch=8, precision="fp32", compile=False, log_every=1, eval_every=1, lr=1e-2)
    model = runs.model()
    for _ in fit(model, predict, runs.tokens, cfg, tmp_path / "plain"):
        seen.append(model.head.weight.detach().clone())
    mean = runs.model().head.weight.detach()
    for n, weight in enumerate(seen):
        share = min(0.5, (1 + n) / (10 + n))
        mean = share * mean + (1 - share) * weight
    averaged = runs.model()
    rows = list(fit(averaged, predict, runs.tokens, replace(cfg, ema=0.5), tmp_path / "averaged", [runs.tokens(10_000)]))
    torch.testing.assert_close(averaged.head.weight.detach(), mean, atol=1e-6, rtol=1e-5)
    batch = runs.tokens(10_000)
    expected = (predict(averaged, batch)["loss"] * batch["token_weight"]).sum() / batch["token_weight"].sum()
    assert rows[-1]["val_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_random_numbers_are_a_matter_of_the_step(tmp_path: Path):
    """An objective that draws: a run that was cut draws what an uninterrupted one draws."""

    def noisy(model: Model, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": predict(model, batch)["loss"] * torch.rand(8, 32)}

    cfg = FitConfig(steps=9, batch=8, precision="fp32", compile=False, log_every=1, save_every=4)
    whole, cut = runs.model(), runs.model()
    rows = list(fit(whole, noisy, runs.tokens, cfg, tmp_path / "whole"))
    for row in fit(runs.model(), noisy, runs.tokens, cfg, tmp_path / "cut"):
        if row["step"] == 6:
            break
    torch.rand(7)
    later = list(fit(cut, noisy, runs.tokens, cfg, tmp_path / "cut"))
    assert numbers(later) == numbers(rows)[4:] and all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))


def test_sigterm_saves_and_exits(tmp_path: Path):
    process = subprocess.Popen([*COMMAND, str(tmp_path), "4000", "predict"], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "predict" / "run" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 12:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "the same command continues from here" in said
    assert newest(tmp_path / "predict") >= log.read_metrics(metrics)[-1]["step"]


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
    cfg = FitConfig(steps=10, batch=8, precision="bf16", compile=False, log_every=1, save_every=5, lr=1e-2)
    for row in fit(runs.model(), predict, runs.tokens, cfg, tmp_path):
        if row["step"] == 7:
            break
    model, rows = runs.train(tmp_path, 10, precision="fp32")
    assert rows[0]["step"] == 6
    whole, expected = runs.train(tmp_path / "whole", 10, precision="bf16")
    assert numbers(rows)[-1] == numbers(expected)[-1] and all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("name", ["predict", "balanced", "ahead", "masked", "copied", "rwkv", "rwkv4"])
def test_bf16_trains_as_fp32_does(name: str, tmp_path: Path):
    """The first steps' losses within 2 %, weights in fp32."""
    _, rows = runs.train(tmp_path / "fp32", 4, name, precision="fp32")
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
