"""Small training runs that tests start as processes of their own: `python runs.py FOLDER STEPS NAME,NAME... [micro_batch]`."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from bessemer.core import dist
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.train.loop import FitConfig, fit
from bessemer.train.objective import Batch, Objective, masked_pair, predict, predict_ahead, prefer

SMALL = ModelConfig(vocab=50, width=32, depth=2, heads=4, kv_heads=2, head_width=8, hidden=48, context=32)


def tokens(step: int) -> Batch:
    """Arithmetic sequences, which a model can learn; weights of every size, a row that weighs nothing among them."""
    draw = torch.Generator().manual_seed(step)
    start, stride = torch.randint(0, 50, (8, 1), generator=draw), torch.randint(1, 4, (8, 1), generator=draw)
    ids = (start + stride * torch.arange(33)) % 50
    weight = torch.rand(8, 32, generator=draw)
    weight[3] = 0
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:], "token_weight": weight}


def packed(step: int) -> Batch:
    """The same sequences, begun anew in the middle of a row: two documents, and padding at the end of some."""
    batch, draw = tokens(step), torch.Generator().manual_seed(step)
    place, cut, end = torch.arange(32), torch.randint(6, 26, (8, 1), generator=draw), torch.randint(28, 33, (8, 1), generator=draw)
    segment = torch.where(place < cut, 1, 2) * (place < end)
    batch["tokens"], batch["targets"] = ((column + 7 * (place >= cut)) % 50 for column in (batch["tokens"], batch["targets"]))
    return batch | {"at": place - cut * (place >= cut), "segment": segment, "token_weight": batch["token_weight"] * (segment > 0)}


def masked(step: int) -> Batch:
    """Five hidden places a row, whose first half says one thing over and over, its second half the same or another."""
    draw = torch.Generator().manual_seed(step)
    start, other = torch.randint(1, 50, (8, 1), generator=draw), torch.randint(0, 2, (8,), generator=draw)
    place = torch.arange(32).expand(8, -1)
    ids = (start + 20 * other[:, None] * (place >= 16)) % 49 + 1
    picked = torch.stack([torch.randperm(32, generator=draw)[:5] for _ in range(8)])
    weight = torch.rand(8, 5, generator=draw)
    columns = {"picked": picked, "targets": ids.gather(1, picked), "token_weight": weight, "tokens": ids.scatter(1, picked, 0)}
    segment, types = torch.ones(8, 32, dtype=torch.long), (place >= 16).long()
    return columns | {"at": place, "segment": segment, "types": types, "pair_targets": other, "row_weight": torch.rand(8, generator=draw)}


def copied(step: int) -> Batch:
    """A target says its source again, in rows of two such pairs; 0 begins what is written."""
    draw = torch.Generator().manual_seed(step)
    source = torch.randint(1, 20, (8, 8), generator=draw)
    place, segment = (torch.arange(8) % 4).expand(8, -1), torch.tensor([1] * 4 + [2] * 4).repeat(8, 1)
    segment[3, 4:] = 0
    before = torch.where(place == 0, 0, source.roll(1, 1))
    columns = {"source_tokens": source, "source_at": place, "source_segment": segment}
    return columns | {"tokens": before, "targets": source, "at": place, "segment": segment, "token_weight": (segment > 0).float()}


def pairs(step: int) -> Batch:
    """Up is preferred to down."""
    draw = torch.Generator().manual_seed(step)
    start = torch.randint(0, 50, (8, 1), generator=draw)
    batch = {"row_weight": torch.rand(8, generator=draw), "reference_chosen": torch.full((8,), -60.0), "reference_rejected": torch.full((8,), -60.0)}
    for side, stride in (("chosen", 1), ("rejected", -1)):
        ids = (start + stride * torch.arange(17)) % 50
        batch |= {f"{side}_tokens": ids[:, :-1], f"{side}_targets": ids[:, 1:], f"{side}_weight": torch.ones(8, 16)}
    return batch


MOE = replace(SMALL, ffn="moe", experts=4, hidden=32)
RUNS: dict[str, tuple[ModelConfig, Objective, Callable[[int], Batch]]] = {
    "predict": (SMALL, predict, tokens),
    "prefer": (SMALL, prefer(0.1, anchor=0.5), pairs),
    "experts": (replace(MOE, shared_experts=1), predict, packed),
    "balanced": (replace(MOE, router="sigmoid", balance="bias"), predict, packed),
    "ahead": (replace(MOE, ahead=2, position="relative", reach=4), predict_ahead(0.5), packed),
    "masked": (replace(SMALL, shape="encoder", head="lm+pair", types=2, position="learned", norm="layer"), masked_pair, masked),
    "copied": (replace(SMALL, shape="encdec", position="bias", encoder_depth=1), predict, copied),
    "rwkv": (replace(SMALL, mixer="rwkv", ffn="channel", position="none"), predict, packed),
    "rwkv4": (replace(SMALL, mixer="rwkv4", ffn="channel4", position="none"), predict, packed),
    "lstm": (replace(SMALL, mixer="lstm", position="none"), predict, packed),
}


def model(name: str = "predict", exact: bool = True) -> Model:
    built = Model(RUNS[name][0])
    initialise(built, 0)
    # What stands above an LSTM or RWKV that has just begun gets gradients below 1e-6. Adam makes whole steps of them, rounding included.
    return built.double() if exact and name in ("lstm", "rwkv", "rwkv4") else built


def train(folder: Path, steps: int, name: str = "predict", **settings) -> tuple[Model, list[dict]]:
    """Fit a small model without compiling. Returns it and the reported rows."""
    _, objective, source = RUNS[name]
    built = model(name, exact="precision" not in settings)
    cfg = FitConfig(**{"steps": steps, "batch": 8, "precision": "fp32", "compile": False, "log_every": 1, "save_every": 5, "lr": 1e-2, **settings})
    rows = list(fit(built, objective, source, cfg, folder, [source(10_000)]))
    return built, rows


def launched(world: int, module: str, *words: str, seconds: float = 300) -> None:
    """`python -m MODULE WORDS` in `world` real gloo processes, as torchrun would start them. All must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    home, command = Path(__file__).parents[2], [sys.executable, "-m", module, *words]
    ranks = [subprocess.Popen(command, cwd=home, env={**environment, "RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(world)]
    try:
        assert [rank.wait(seconds) for rank in ranks] == [0] * world
    finally:
        for rank in ranks:
            rank.kill()


if __name__ == "__main__":
    folder, steps, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
    for name in names:
        built, rows = train(folder / name, steps, name, **({"micro_batch": int(sys.argv[4])} if len(sys.argv) > 4 else {}))
        if dist.rank() == 0:
            losses = [sum(v for k, v in row.items() if k.endswith("loss") and not k.startswith("val_")) for row in rows]
            torch.save({"weights": built.state_dict(), "losses": losses}, folder / name / "end.pt")
