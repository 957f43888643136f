"""A small training run that the crash drill kills. It writes down what it read and drew at each step, and can be told where to die."""

import errno
import hashlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bessemer.core import artifact
from bessemer.data import mixture, tokens
from bessemer.data.mixture import MixConfig, Mixture
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.train import objective
from bessemer.train.loop import FitConfig, fit
from bessemer.train.objective import Batch, Terms
from bessemer.train.parallel.mesh import MeshConfig

SEED, CONTEXT, VOCAB = 3, 32, 64
MODEL = ModelConfig(vocab=VOCAB, width=32, depth=2, heads=4, kv_heads=2, head_width=8, hidden=48, context=CONTEXT)
MIX = MixConfig(weights={"plain": 3.0, "fine": 1.0}, anneal={"fine": 1.0}, anneal_share=0.4)
TINY: dict[str, Any] = {"batch": 4, "precision": "fp32", "compile": False, "save_every": 3, "log_every": 1, "eval_every": 5, "lr": 1e-2, "seed": SEED}
RUNS = {
    "AdamW": FitConfig(**TINY),
    "Muon, EMA, anneal": FitConfig(optimizer="muon", ema=0.9, decay=0.4, **TINY),
    "2 ranks, ZeRO-2": FitConfig(mesh=MeshConfig(ranks=2, zero=2), **TINY),
}
FULL = 28  # exit status where the disk is full: its errno
WRITES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")  # what the interpreter announces before it happens


@dataclass(frozen=True)
class End:
    """How a run is to end of itself: at the `count`-th time it touches a checkpoint's files."""

    way: str  # kill, or full: as a disk that is
    count: int


def write_tokens(folder: Path) -> None:
    """Two domains of documents that can be learnt: walks through the vocabulary in steps of one, or of three."""
    draw = np.random.default_rng(SEED)
    for domain, stride in (("plain", 1), ("fine", 3)):
        for split, count in (("train", 60), ("val", 6)):
            with tokens.Writer(folder / domain, split, VOCAB, end_of_text=0) as file:
                for number in range(count):
                    length, first = draw.integers(20, 60), draw.integers(0, VOCAB)
                    file.add(f"{domain}-{split}-{number}", int(length), (1 + (first + stride * np.arange(length)) % (VOCAB - 1)).tolist())


def run(name: str, steps: int, data: Path, folder: Path, log: Path, rank: int, port: int, end: End | None) -> None:
    """One process of the run called `name`, going on from what is in `folder`. Exits with FULL where the disk is full."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # it is about files and order, and two ranks have no use for one GPU
    cfg = FitConfig(**{**vars(RUNS[name]), "steps": steps})
    if cfg.mesh.ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(cfg.mesh.ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    said = os.open(log.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(said, sys.stderr.fileno())
    if end:
        _arm(end, folder)
    files = tokens.load_all(data, "train", VOCAB)
    sizes = tokens.sizes(data, "train", CONTEXT)
    rows = Mixture(files, sizes, mixture.phases(MIX, sizes, steps, cfg.batch, CONTEXT, cfg.decay), CONTEXT, cfg.batch, SEED)
    held_out = tokens.Windows(tokens.load(data / "fine", "val", VOCAB), CONTEXT, cfg.batch, SEED)(0)
    model = Model(MODEL)
    initialise(model, SEED)
    try:
        for _ in fit(model, _Diary(log).objective, _Diary(log).source(rows), cfg, folder, [held_out], name):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(FULL) from error


class _Diary:
    """A line in a file for what each step reads, and one for what it draws."""

    def __init__(self, path: Path):
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def source(self, rows: Mixture) -> Any:
        def source(step: int) -> Batch:
            batch = rows(step)
            content = hashlib.sha256(b"".join(batch[column].numpy().tobytes() for column in sorted(batch))).hexdigest()
            self.write(step, "rows", content[:16])
            return {**batch, "step": torch.full((len(batch["tokens"]),), step)}

        return source

    def objective(self, model: Model, batch: Batch) -> Terms:
        """The loss of next tokens, each row weighed by chance: what is drawn shows in the weights, too."""
        terms = objective.predict(model, {name: column for name, column in batch.items() if name != "step"})
        if "step" not in batch or not len(batch["step"]):  # held-out rows
            return terms
        drawn = torch.rand(len(batch["step"]), 1, device=batch["step"].device)
        self.write(int(batch["step"][0]), "draws", _hex(drawn))
        return {name: term * (0.5 + drawn) for name, term in terms.items()}

    def write(self, step: int, what: str, value: str) -> None:
        os.write(self.file, f"{step} {what} {value}\n".encode())


def _hex(drawn: Tensor) -> str:
    return ",".join(value.hex() for value in drawn.flatten().tolist())


def _arm(end: End, folder: Path) -> None:
    """The interpreter tells its audit hooks of each call to the file system before it makes it; ours dies, or says that the disk is full."""
    place, left = str(folder / artifact.RUN / "resume" / "step-"), end.count

    def hook(event: str, about: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in WRITES or not str(about[0]).startswith(place):
            return
        left -= 1
        if left <= 0 and end.way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if left <= 0 and event == "open" and about[2] & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(about[0]))

    sys.addaudithook(hook)
