"""Small training runs that tests start as processes of their own: `python runs.py FOLDER STEPS [micro_batch]`."""

import sys
from pathlib import Path

import torch

from bessemer.core import dist
from bessemer.model.config import ModelConfig
from bessemer.model.decoder import Decoder, initialise
from bessemer.train.loop import FitConfig, fit
from bessemer.train.objective import Objective, predict, prefer

SMALL = ModelConfig(vocab=50, width=32, depth=2, heads=4, kv_heads=2, head_width=8, hidden=48, context=32)


def model() -> Decoder:
    built = Decoder(SMALL)
    initialise(built, 0)
    return built


def tokens(step: int) -> dict[str, torch.Tensor]:
    """Arithmetic sequences, which a model can learn; weights of every size, a row that weighs nothing among them."""
    draw = torch.Generator().manual_seed(step)
    start, stride = torch.randint(0, 50, (8, 1), generator=draw), torch.randint(1, 4, (8, 1), generator=draw)
    ids = (start + stride * torch.arange(33)) % 50
    weight = torch.rand(8, 32, generator=draw)
    weight[3] = 0
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:], "token_weight": weight}


def pairs(step: int) -> dict[str, torch.Tensor]:
    """Up is preferred to down."""
    draw = torch.Generator().manual_seed(step)
    start = torch.randint(0, 50, (8, 1), generator=draw)
    batch = {"row_weight": torch.rand(8, generator=draw), "reference_chosen": torch.full((8,), -60.0), "reference_rejected": torch.full((8,), -60.0)}
    for side, stride in (("chosen", 1), ("rejected", -1)):
        ids = (start + stride * torch.arange(17)) % 50
        batch |= {f"{side}_tokens": ids[:, :-1], f"{side}_targets": ids[:, 1:], f"{side}_weight": torch.ones(8, 16)}
    return batch


OBJECTIVES: dict[str, tuple[Objective, object]] = {"predict": (predict, tokens), "prefer": (prefer(0.1, anchor=0.5), pairs)}


def train(folder: Path, steps: int, name: str = "predict", **settings) -> tuple[Decoder, list[dict]]:
    """Fit a small model in fp32 without compiling. Returns it and the reported rows."""
    objective, source = OBJECTIVES[name]
    built = model()
    cfg = FitConfig(**{"steps": steps, "batch": 8, "precision": "fp32", "compile": False, "log_every": 1, "save_every": 5, "lr": 1e-2, **settings})
    rows = list(fit(built, objective, source, cfg, folder, [source(10_000)]))  # type: ignore[arg-type]
    return built, rows


if __name__ == "__main__":
    folder, steps, name = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    built, rows = train(folder, steps, name, **({"micro_batch": int(sys.argv[4])} if len(sys.argv) > 4 else {}))
    if dist.rank() == 0:
        torch.save(
            {"weights": built.state_dict(), "losses": [sum(v for k, v in row.items() if k.endswith("loss")) for row in rows]}, folder / "end.pt"
        )
