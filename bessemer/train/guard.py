"""Whether a step may be taken: losses that are no numbers, gradients that spike, and the loss scale that fp16 needs."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from bessemer.core import log
from bessemer.core.config import Count

SCALE, GROW_AFTER = 2.0**16, 2000  # fp16's first scale, and the good steps after which it doubles (Micikevicius et al. 2018, section 3.2)
WARM = 20  # steps before a mean of gradient norms says what a spike is
MEMORY = 0.05  # weight of the newest norm in that mean


@dataclass(frozen=True)
class GuardConfig:
    bad_step: Literal["skip", "stop"] = "skip"  # where loss or gradient is no number, or a spike: leave the step out, or end the run
    spike: Annotated[float, Ge(0.0)] = 0.0  # a gradient norm this many times its running mean is bad; 0: none is
    patience: Count = 10  # bad steps in a row that end the run in any case


class Guard:
    """Judges steps on the device, so that nobody waits for an answer: an optimizer that is told `found_inf` changes nothing."""

    def __init__(self, cfg: GuardConfig, where: torch.device, dtype: torch.dtype):
        self.cfg, self.scaled, self.told = cfg, dtype == torch.float16, 0
        first = {"mean": 0.0, "judged": 0.0, "skipped": 0.0, "in_a_row": 0.0, "step": 0.0, "loss": 0.0, "norm": 0.0, "good": 0.0}
        self.state = {name: torch.tensor(value, device=where) for name, value in first.items()}
        self.scale = torch.tensor(SCALE if self.scaled else 1.0, device=where)

    @property
    def factor(self) -> Tensor | None:
        """What losses are multiplied by before the backward pass; None where nothing needs it."""
        return self.scale if self.scaled else None

    def judge(self, loss: Tensor, norm: Tensor, step: int) -> Tensor:
        """1.0 where the step that came to this loss and gradient norm must not be taken, else 0.0."""
        state = self.state
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        fine = finite
        if self.cfg.spike:
            fine = fine & ((state["judged"] < WARM) | (norm <= self.cfg.spike * state["mean"]))
        mean = torch.where(state["judged"] > 0, state["mean"].lerp(norm, MEMORY), norm)
        state["mean"] = torch.where(fine, mean, state["mean"])
        state["judged"] = state["judged"] + fine
        # A scale that is too large makes gradients overflow: that is how it is found, and nobody's fault.
        searching = ~finite & torch.isfinite(loss) & (self.scale > 1.0)
        bad = ~fine & ~searching
        state["skipped"] = state["skipped"] + bad
        state["in_a_row"] = torch.where(fine, 0.0, state["in_a_row"] + bad)
        for name, value in (("step", torch.full_like(norm, step)), ("loss", loss), ("norm", norm)):
            state[name] = torch.where(bad, value, state[name])
        if self.scaled:
            state["good"] = torch.where(finite, state["good"] + 1, 0.0)
            grown = torch.where(state["good"] >= GROW_AFTER, self.scale * 2, self.scale)
            self.scale = torch.where(finite, grown, self.scale / 2).clamp(1.0, 2.0**24)
            state["good"] = torch.where(state["good"] >= GROW_AFTER, 0.0, state["good"])
        return (~fine).float()

    def check(self, folder: Any) -> dict[str, float]:
        """Say what was skipped since the last look, or FloatingPointError where the run must end. This waits for the device."""
        skipped, row = int(self.state["skipped"]), int(self.state["in_a_row"])
        if skipped == self.told:
            return {"skipped": skipped} if skipped else {}
        step, loss, norm = int(self.state["step"]), float(self.state["loss"]), float(self.state["norm"])
        what = f"loss is {loss:.4g} and gradient norm {norm:.4g} at step {step}"
        if self.cfg.bad_step == "stop" or row >= self.cfg.patience:
            times = f", the last of {row} bad steps in a row" if row > 1 else ""
            raise FloatingPointError(f"{what}{times}; the last good checkpoint is kept in {folder}. Lower lr, or look at the rows of this step")
        log.say(f"{what}: skipped ({skipped} so far)")
        self.told = skipped
        return {"skipped": skipped}

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.state, "scale": self.scale}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        found = {name: torch.as_tensor(value, dtype=torch.float32, device=self.scale.device) for name, value in saved.items()}
        self.scale = found.pop("scale")
        self.state, self.told = found, int(found["skipped"])
