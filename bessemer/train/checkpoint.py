"""What a killed training run needs to go on exactly: weights, optimizer state, the step, the precision. One file, replaced in one rename."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bessemer.core import artifact

NAME = "resume/state.pt"


def save(folder: Path, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], dtype: torch.dtype) -> None:
    """Write the state after `step` finished steps."""
    path = folder / artifact.RUN / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through a Python file: torch's own writer reports a full disk as a broken zip.
    with artifact.atomic(path) as temporary, temporary.open("wb") as file:
        states = [optimizer.state_dict() for optimizer in optimizers]
        torch.save({"step": step, "model": model.state_dict(), "optimizers": states, "dtype": dtype}, file)


def load(folder: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> tuple[int, torch.dtype | None]:
    """Restore model and optimizers in place. Returns the finished steps and their precision; 0 and None where there is nothing."""
    path = folder / artifact.RUN / NAME
    if not path.is_file():
        return 0, None
    state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["dtype"]
