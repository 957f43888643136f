"""Which steps are taken, by hand."""

import math
from pathlib import Path

import pytest
import torch

from bessemer.core import log
from bessemer.train.guard import GROW_AFTER, MEMORY, SCALE, WARM, Guard, GuardConfig

CPU = torch.device("cpu")


def judge(guard: Guard, loss: float, norm: float, step: int = 1) -> bool:
    """Whether the step is refused."""
    return bool(guard.judge(torch.tensor(loss), torch.tensor(norm), step))


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, math.inf), (-math.inf, 1.0)])
def test_what_is_no_number_is_refused(loss: float, norm: float):
    guard = Guard(GuardConfig(), CPU, torch.float32)
    assert not judge(guard, 1.0, 1.0) and judge(guard, loss, norm) and not judge(guard, 1.0, 1.0)
    assert guard.state["skipped"] == 1 and guard.state["in_a_row"] == 0


def test_a_spike_is_measured_by_the_mean_of_what_was_taken():
    """The mean follows norms of 1, then of 2, by 0.05 of the difference; five times it is 5.25 and more; what was refused does not move it."""
    guard = Guard(GuardConfig(spike=5.0), CPU, torch.float32)
    assert not judge(guard, 1.0, 1.0)
    for _ in range(WARM - 1):
        assert not judge(guard, 1.0, 1.0)
    assert not judge(guard, 1.0, 2.0)
    mean = 1 + MEMORY
    assert float(guard.state["mean"]) == pytest.approx(mean)
    assert judge(guard, 1.0, 5 * mean + 0.01) and float(guard.state["mean"]) == pytest.approx(mean)
    assert not judge(guard, 1.0, 5 * mean - 0.01)
    assert not judge(Guard(GuardConfig(spike=5.0), CPU, torch.float32), 1.0, 1e9)  # nothing to measure by yet


def test_skipped_steps_are_said_and_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    said: list[str] = []
    monkeypatch.setattr(log, "say", said.append)
    guard = Guard(GuardConfig(), CPU, torch.float32)
    judge(guard, 1.0, 1.0)
    assert guard.check(tmp_path) == {} and said == []
    judge(guard, math.nan, 2.0, 7)
    assert guard.check(tmp_path) == {"skipped": 1} and guard.check(tmp_path) == {"skipped": 1}
    assert said == ["loss is nan and gradient norm 2 at step 7: skipped (1 so far)"]


def test_the_policy_stop_and_patience_end_a_run(tmp_path: Path):
    guard = Guard(GuardConfig(bad_step="stop"), CPU, torch.float32)
    judge(guard, 1.0, math.inf, 3)
    with pytest.raises(FloatingPointError, match="gradient norm inf at step 3; the last good checkpoint is kept in"):
        guard.check(tmp_path)
    guard = Guard(GuardConfig(patience=3), CPU, torch.float32)
    for step in (1, 2):
        judge(guard, math.nan, 1.0, step)
        guard.check(tmp_path)
    judge(guard, math.nan, 1.0, 3)
    with pytest.raises(FloatingPointError, match="the last of 3 bad steps in a row"):
        guard.check(tmp_path)


def test_the_loss_scale_halves_where_gradients_overflow_and_doubles_after_a_while(tmp_path: Path):
    guard = Guard(GuardConfig(bad_step="stop"), CPU, torch.float16)
    assert guard.factor is not None and float(guard.factor) == SCALE
    assert judge(guard, 1.0, math.inf) and float(guard.scale) == SCALE / 2
    assert guard.check(tmp_path) == {}  # looking for the scale is no bad step
    for _ in range(GROW_AFTER - 1):
        assert not judge(guard, 1.0, 1.0)
    assert float(guard.scale) == SCALE / 2
    judge(guard, 1.0, 1.0)
    assert float(guard.scale) == SCALE
    guard.scale = torch.tensor(1.0)
    assert judge(guard, 1.0, math.inf)  # no scale left to lower
    with pytest.raises(FloatingPointError):
        guard.check(tmp_path)


def test_bf16_and_fp32_need_no_scale():
    for dtype in (torch.bfloat16, torch.float32):
        guard = Guard(GuardConfig(), CPU, dtype)
        judge(guard, 1.0, math.inf)
        assert guard.factor is None and float(guard.scale) == 1.0


def test_a_guard_goes_on_where_another_was_saved():
    first, second = (Guard(GuardConfig(spike=3.0), CPU, torch.float16) for _ in range(2))
    for norm in [1.0] * 30 + [math.inf, 9.0]:
        judge(first, 1.0, norm)
    second.load_state_dict(first.state_dict())
    for norm in (2.0, math.inf, 3.1, 2.9):
        assert judge(first, 1.0, norm) == judge(second, 1.0, norm)
    assert first.state == second.state and first.scale == second.scale
