"""Direct preference optimization: raise chosen answers over rejected ones, against the model it starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from bessemer.core import artifact, device, dist, jsonl, log
from bessemer.core.config import Count, Fraction, Positive, Whole
from bessemer.core.recipe import Step
from bessemer.data import checkpoint, order, preference
from bessemer.data.preference import Pairs
from bessemer.model import weights
from bessemer.model.model import Model
from bessemer.scale import plan
from bessemer.train.loop import FitConfig, fit, results
from bessemer.train.objective import answer_log_probs, prefer
from bessemer.train.parallel import mesh


@dataclass(frozen=True)
class DpoConfig(FitConfig):
    steps: Count = 100
    lr: float = 1e-4
    weight_decay: float = 0.0
    beta: Positive = 0.1  # how strongly the policy is held to the reference
    anchor: float = 0.0  # weight of the chosen answer's own likelihood beside the preference
    longest: Whole = 0  # tokens of a pair's longer side; longer pairs are left out (0: the model's context)
    held_out: Fraction = 0.1  # share of pairs kept aside to measure accuracy

    version: ClassVar[int] = 3


def dpo(model: Path, preferences: Path, *, out: Path, cfg: DpoConfig) -> dict[str, float]:
    policy, words = checkpoint.load(model)
    rows = jsonl.read(preferences / "pairs.jsonl")
    pairs, too_long = preference.encode(rows, words, cfg.longest or policy.cfg.context)
    with dist.first():
        reference = _reference(out, policy, Pairs(pairs, cfg.batch, cfg.seed), cfg)
    aside = min(max(1, int(len(pairs) * cfg.held_out)), len(pairs) - 1)
    if aside < 1:
        raise ValueError(f"{preferences} holds {len(pairs)} pair: DPO needs at least one to learn from and one to measure on")
    train = Pairs(pairs[aside:], cfg.batch, cfg.seed, reference[aside:])
    unseen = Pairs(pairs[:aside], cfg.batch, cfg.seed, reference[:aside])
    held_out = list(order.in_order(unseen.rows, unseen.count, cfg.batch))

    for row in fit(policy, prefer(cfg.beta, cfg.anchor), train, cfg, out, held_out, "dpo"):
        if "val_accuracy" in row:
            log.say(f"step {row['step']}: loss {row['dpo_loss']:.3f}, held-out accuracy {row['val_accuracy']:.3f}, margin {row['val_margin']:.3f}")
    weights.save(policy, out, model, words.ends)
    return {
        "pairs": len(pairs),
        "too_long": too_long,
        "epochs": round(cfg.steps * cfg.batch / train.count, 3),
        **results(out),
    }


def estimate(cfg: DpoConfig, step: Step) -> dict[str, float]:
    model = plan.model_of(step)
    if model is None:
        return {}
    mesh.check(cfg.mesh, model, cfg.mesh.ranks)
    context = cfg.longest or model.context
    return plan.training(step, cfg.steps * cfg.batch * 2 * context, context)


@torch.no_grad()
def _reference(out: Path, policy: Model, pairs: Pairs, cfg: DpoConfig) -> np.ndarray:
    """Log-probabilities of both answers under the starting model, (pairs, 2): computed once, kept for a killed run and for reading."""
    file = out / "reference.npy"
    if file.is_file():
        return np.load(file)
    where = device.pick()
    policy.to(where)
    found = []
    for batch in log.track(list(order.in_order(pairs.rows, pairs.count, cfg.batch)), "reference"):
        found.append(torch.stack(answer_log_probs(policy, {name: column.to(where) for name, column in batch.items()}), 1).cpu().numpy())
    with artifact.atomic(file) as temporary, temporary.open("wb") as handle:
        np.save(handle, np.concatenate(found))
    return np.load(file)
