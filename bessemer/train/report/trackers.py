"""Where a run's numbers go: run/metrics.jsonl always, TensorBoard and Weights & Biases where they are asked for."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bessemer.core import artifact, log
from bessemer.train.report.meter import MeterConfig

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"  # a folder


class Trackers:
    """Takes the rows of one run. `first_step` steps are done: what a killed process wrote of later ones is forgotten. `label` and `config`
    say what is trained.

    RuntimeError where a package is missing or Weights & Biases does not let this user in.
    """

    def __init__(self, folder: Path, cfg: MeterConfig, first_step: int, label: str, config: dict[str, Any]):
        check(cfg)
        place = folder / artifact.RUN
        self.metrics = log.Metrics(place / METRICS, first_step + 1)
        self.board = _board(place, first_step) if cfg.tensorboard else None
        self.run = _run(place, cfg.wandb, label, config) if cfg.wandb else None

    def write(self, step: int, row: dict[str, Any]) -> None:
        self.metrics.write(step, **row)
        if self.board:
            for name, value in row.items():
                self.board.add_scalar(_tag(name), value, step)
            self.board.flush()
        if self.run:
            # A step that the server has already, from before a kill, is not taken twice; it would be the same.
            self.run.log({_tag(name): value for name, value in row.items()}, step=step, commit=True)

    def close(self) -> None:
        self.metrics.close()
        if self.board:
            self.board.close()
        if self.run:
            self.run.finish()


def check(cfg: MeterConfig) -> None:
    """RuntimeError where a package is asked for that is not installed."""
    for wanted, name in ((cfg.tensorboard, "tensorboard"), (bool(cfg.wandb), "wandb")):
        if wanted and find_spec(name) is None:
            value = "true" if name == "tensorboard" else cfg.wandb
            raise RuntimeError(f"{name} = {value} needs the package {name}: pip install {name}")


def _tag(name: str) -> str:
    """Both draw the numbers whose names begin alike up to a slash together."""
    group, colon, rest = name.partition(": ")
    if colon:
        return f"{group}/{rest}"
    return f"held out/{name.removeprefix('val_')}" if name.startswith("val_") else name


def _board(place: Path, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(place / TENSORBOARD), purge_step=first_step + 1)


def _run(place: Path, project: str, label: str, config: dict[str, Any]) -> Any:
    """The run of this artifact: its key is the id, so that a resumed run goes on in the same curves."""
    import wandb

    key = place / "key"
    name = key.read_text() if key.is_file() else hashlib.sha256(str(place.resolve()).encode()).hexdigest()[:12]
    try:
        settings = wandb.Settings(silent=True, console="off")  # the progress bar is drawn by us
        return wandb.init(project=project, id=name, name=f"{label}-{name}", dir=str(place), config=config, resume="allow", settings=settings)
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(f"wandb = {project}: {reason} (WANDB_MODE=offline keeps the run on this disk)") from None
