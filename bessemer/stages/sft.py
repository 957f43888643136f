"""Fine-tune a model on conversations: only what the assistant says is learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bessemer.core import log
from bessemer.core.config import Count
from bessemer.core.recipe import Step
from bessemer.data import chat, checkpoint, order
from bessemer.model import weights
from bessemer.scale import count, plan
from bessemer.train.loop import FitConfig, fit, results
from bessemer.train.objective import predict
from bessemer.train.parallel import mesh


@dataclass(frozen=True)
class SftConfig(FitConfig):
    steps: Count = 300
    lr: float = 1e-3
    held_out: Count = 32  # rows of held-out conversations read at each evaluation

    version: ClassVar[int] = 3


def sft(base: Path, dialogues: Path, *, out: Path, cfg: SftConfig) -> dict[str, float]:
    model, words = checkpoint.load(base)
    rows, too_long = chat.encode(chat.read(dialogues / "train.jsonl"), words, model.cfg.context)
    train = chat.ChatRows(rows, model.cfg.context, cfg.batch, cfg.seed)
    unseen = chat.ChatRows(chat.encode(chat.read(dialogues / "heldout.jsonl"), words, model.cfg.context)[0], model.cfg.context, cfg.batch, cfg.seed)
    held_out = list(order.in_order(unseen.rows, min(cfg.held_out, unseen.count), cfg.batch))
    log.say(f"{len(rows):,} conversations in {train.count:,} rows, {100 * train.fill:.1f}% full; {too_long} too long for {model.cfg.context} tokens")

    for row in fit(model, predict, train, cfg, out, held_out, "sft"):
        if "val_loss" in row:
            log.say(f"step {row['step']}: loss {row['loss']:.3f}, held out {row['val_loss']:.3f} nats per answer token")
    weights.save(model, out, base, words.ends)
    return {
        "conversations": len(rows),
        "too_long": too_long,
        "rows": train.count,
        "fill": round(train.fill, 4),
        "epochs": round(cfg.steps * cfg.batch / train.count, 3),
        "flops": cfg.steps * cfg.batch * model.cfg.context * count.training_flops(model.cfg, model.cfg.context),
        **results(out),
    }


def estimate(cfg: SftConfig, step: Step) -> dict[str, float]:
    model = plan.model_of(step)
    if model is None:
        return {}
    checkpoint.check_shape(model, ("decoder",), "base")
    mesh.check(cfg.mesh, model, cfg.mesh.ranks)
    return plan.training(step, cfg.steps * cfg.batch * model.context, model.context)
