"""What a killed training run needs to go on exactly: weights, optimizer state, the step. One file, replaced in one rename."""

from pathlib import Path

import torch
from torch import nn

from bessemer.core import artifact

NAME = "resume/state.pt"


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state after `step` finished steps."""
    path = folder / artifact.RUN / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with artifact.atomic(path) as temporary:
        torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, temporary)


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore model and optimizer in place. Returns how many steps are finished, 0 where there is nothing to restore."""
    path = folder / artifact.RUN / NAME
    if not path.is_file():
        return 0
    state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
