"""Fine-tune an encoder-decoder on pairs of texts, as in translation and summaries, and score what it writes for held-out sources."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from bessemer.core import artifact, jsonl, log
from bessemer.core.config import Count, Positive, Whole
from bessemer.core.recipe import Step
from bessemer.data import checkpoint, order
from bessemer.data.seq2seq import Seq2SeqRows, encode, read, start_of
from bessemer.decode.generate import generate
from bessemer.decode.sample import Sampling
from bessemer.eval import overlap, scores, stats
from bessemer.model import weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model
from bessemer.scale import count, plan
from bessemer.tokenizer.tokenizer import Tokenizer
from bessemer.train.loop import FitConfig, fit, results
from bessemer.train.objective import predict
from bessemer.train.parallel import mesh


@dataclass(frozen=True)
class Seq2SeqConfig(FitConfig):
    steps: Count = 300
    lr: Positive = 1e-3
    target_context: Whole = 0  # tokens of target in a row, and of what is written at most; 0: as many as the model's context
    held_out: Count = 32  # rows of held-out pairs read at each evaluation
    answered: Count = 200  # held-out sources that are answered and scored in the end, spread evenly over all of them

    version: ClassVar[int] = 2


def seq2seq(base: Path, rows: Path, *, out: Path, cfg: Seq2SeqConfig) -> dict[str, float]:
    """Read train.jsonl and heldout.jsonl of {source, target} in `rows`; write a checkpoint, scores.json and predictions.jsonl."""
    model, words = checkpoint.load(base, shapes=("encdec",))
    length, start = _length(cfg, model.cfg), start_of(words)
    train, too_long = _packed(read(rows / "train.jsonl"), words, model.cfg.context, length, cfg)
    unseen = read(rows / "heldout.jsonl")
    judged, _ = _packed(unseen, words, model.cfg.context, length, cfg)
    held_out = list(order.in_order(judged.rows, min(cfg.held_out, judged.count), cfg.batch))
    full = ", ".join(f"{100 * share:.0f}% full of {side}s" for share, side in zip(train.fill, ("source", "target"), strict=True))
    log.say(f"{train.count:,} rows, {full}; {too_long} pairs too long for {model.cfg.context} tokens of source and {length} of target")

    for row in fit(model, predict, train, cfg, out, held_out, "seq2seq"):
        if "val_loss" in row:
            log.say(f"step {row['step']}: loss {row['loss']:.3f}, held out {row['val_loss']:.3f} nats per target token")
    weights.save(model, out, base, [words.end_of_text], start)

    asked = scores.spread(unseen, cfg.answered)
    log.say(f"writing for {len(asked)} held-out sources")
    written = answers(model.eval(), words, [row["source"] for row in asked], length)
    summary = _judged(asked, written)
    artifact.write_json(out / "scores.json", summary)
    jsonl.write(out / "predictions.jsonl", [{**row, "prediction": text} for row, text in zip(asked, written, strict=True)])
    return {
        "too_long": too_long,
        "rows": train.count,
        "fill_source": round(train.fill[0], 4),
        "fill_target": round(train.fill[1], 4),
        "epochs": round(cfg.steps * cfg.batch / train.count, 3),
        "flops": cfg.steps * cfg.batch * count.row_flops(model.cfg, length, model.cfg.context),
        **{f"{row['system']}.{row['metric']}": row["value"] for row in summary["scores"]},
        **results(out),
    }


def estimate(cfg: Seq2SeqConfig, step: Step) -> dict[str, float]:
    made, model = step.upstream("rows"), plan.model_of(step)
    if made is not None and made.stage.name == "exercises" and made.cfg.kind != "summarise":
        raise ValueError(f"rows of kind = {made.cfg.kind} have no source and target: take exercises of kind = summarise")
    if model is None:
        return {}
    checkpoint.check_shape(model, ("encdec",), "base")
    mesh.check(cfg.mesh, model, cfg.mesh.ranks)
    return plan.cost(model, cfg.steps * cfg.batch * count.row_flops(model, _length(cfg, model), model.context), cfg.precision)


def answers(model: Model, words: Tokenizer, sources: Sequence[str], max_tokens: int) -> list[str]:
    """What the model writes for each source, greedily. A source longer than its context loses its end."""
    ids = [[*source[: model.cfg.context - 1], words.end_of_text] for source in words.encode_batch(sources)]
    found = generate(model, [[start_of(words)]] * len(ids), Sampling(max_tokens), {words.end_of_text}, sources=ids)
    return [words.decode(answer).strip() for answer in found]


def _length(cfg: Seq2SeqConfig, model: ModelConfig) -> int:
    if cfg.target_context > model.context:
        raise ValueError(f"target_context ({cfg.target_context}) is more than the base's context of {model.context} tokens")
    return cfg.target_context or model.context


def _packed(rows: list[dict[str, Any]], words: Tokenizer, context: int, length: int, cfg: Seq2SeqConfig) -> tuple[Seq2SeqRows, int]:
    pairs, too_long = encode(rows, words, context, length)
    return Seq2SeqRows(pairs, context, length, cfg.batch, cfg.seed, start_of(words)), too_long


def _judged(rows: Sequence[dict[str, Any]], written: Sequence[str]) -> dict[str, Any]:
    """Scores with intervals of the model and of two that learn nothing, and how far the model is above those in ROUGE-L, row by row."""
    targets = [row["target"] for row in rows]
    systems = {
        "model": list(written),
        "copy": [row["source"] for row in rows],
        "lead": [overlap.lead(row["source"]) for row in rows],  # the first sentence, a hard baseline for summaries
    }
    found = {name: [overlap.rouge_l(*pair) for pair in zip(texts, targets, strict=True)] for name, texts in systems.items()}
    return {
        "scores": [
            {"system": name, "metric": metric, **asdict(value)}
            for name, texts in systems.items()
            for metric, value in overlap.compare(texts, targets).items()
        ],
        "differences": [
            {"first": name, "second": "model", "metric": "rouge_l", **asdict(stats.paired(found[name], found["model"]))} for name in ("copy", "lead")
        ],
    }
