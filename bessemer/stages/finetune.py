"""Fine-tune a pretrained model to classify texts, to tag words, or to find answers in a text: its trunk is kept, its head is new."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from bessemer.core import jsonl, log
from bessemer.core.config import Count
from bessemer.core.recipe import Step
from bessemer.data import checkpoint, extractive, labelled, order
from bessemer.data.labelled import LabelledRows
from bessemer.eval import labels as measure
from bessemer.eval.stats import Estimate
from bessemer.model import weights
from bessemer.model.config import Head, ModelConfig, Shape
from bessemer.model.model import Model, with_head
from bessemer.scale import count, plan
from bessemer.tokenizer.tokenizer import Tokenizer
from bessemer.train.loop import FitConfig, fit, results
from bessemer.train.objective import Batch, Objective, classify, extract, hidden_of
from bessemer.train.parallel import mesh

Row = dict[str, Any]
Task = Literal["classify", "tag", "answer"]


class Kind(NamedTuple):
    """What a task needs and does."""

    head: Head
    shapes: tuple[Shape, ...]
    columns: tuple[str, ...]
    check: Callable[[Row], str]
    objective: Objective


TASKS: dict[Task, Kind] = {
    "classify": Kind("sequence", ("encoder", "decoder"), ("text", "label"), labelled.wrong_text, classify),
    "tag": Kind("tokens", ("encoder",), ("words", "tags"), labelled.wrong_tags, classify),
    "answer": Kind("span", ("encoder",), ("question", "context", "answer"), extractive.wrong, extract),
}


@dataclass(frozen=True)
class FinetuneConfig(FitConfig):
    task: Task = "classify"  # rows {text, label} or {text, other, label}; {words, tags} in IOB2; {question, context, answer, start}
    steps: Count = 300
    batch: Count = 8  # rows of the model's context, each packed full of examples
    lr: float = 5e-4
    held_out: Count = 16  # such rows of held-out examples read at each evaluation; at the end all are
    stride: Count = 64  # of answer: tokens between the beginnings of two windows of a long text
    longest: Count = 30  # of answer: tokens

    version: ClassVar[int] = 2


def finetune(base: Path, rows: Path, *, out: Path, cfg: FinetuneConfig) -> dict[str, float]:
    """Train on rows/train.jsonl, measure on all of rows/heldout.jsonl. Writes a checkpoint, and predictions.jsonl: the held-out rows, each
    with what the model said (`predicted`).

    ValueError where the base has a shape that cannot do the task, its tokenizer lacks a token, or rows are of another kind.
    """
    task = TASKS[cfg.task]
    check_shape(weights.load_config(base), cfg.task, str(base))
    trunk, words = checkpoint.load(base, shapes=task.shapes)
    train, heldout = read(rows / "train.jsonl", cfg.task), read(rows / "heldout.jsonl", cfg.task)
    names = [] if cfg.task == "answer" else labelled.classes(label for row in train for label in said(row, cfg.task))
    model = with_head(trunk, task.head, len(names), cfg.seed)
    examples, cut, _ = encoded(train, names, words, model.cfg, cfg)
    try:
        unseen, _, windows = encoded(heldout, names, words, model.cfg, cfg)
    except ValueError as error:
        raise ValueError(f"{rows / 'heldout.jsonl'}: {error}") from None
    source, held = (LabelledRows(found, model.cfg.context, cfg.batch, cfg.seed) for found in (examples, unseen))
    watched = list(order.in_order(held.rows, min(cfg.held_out, held.count), cfg.batch))
    log.say(f"{len(train):,} examples in {source.count:,} rows, {100 * source.fill:.1f}% full; {cut} cut to {model.cfg.context} tokens")

    for row in fit(model, task.objective, source, cfg, out, watched, "finetune"):
        if shown := ", ".join(f"held out {name[4:]} {value:.3f}" for name, value in row.items() if name.startswith("val_")):
            log.say(f"step {row['step']}: {shown}")
    if cfg.task == "answer":
        predicted: list[Any] = extractive.answers(heldout, windows, spans(model, held), cfg.longest)
    else:
        given = chosen(model, held, names)
        predicted = [one[0] for one in given] if cfg.task == "classify" else [
            tags + ["O"] * (len(row["words"]) - len(tags)) for row, tags in zip(heldout, given, strict=True)
        ]  # fmt: skip
    jsonl.write(out / "predictions.jsonl", [{**row, "predicted": one} for row, one in zip(heldout, predicted, strict=True)])
    weights.save(model, out, base, [words.end_of_text], labels=names)
    found, baseline = scores(train, heldout, predicted, cfg.task)
    log.say(", ".join(f"{name} {one.value:.3f} [{one.low:.3f}, {one.high:.3f}], baseline {baseline[name]:.3f}" for name, one in found.items()))
    return {
        "examples": len(train),
        "heldout": len(heldout),
        "cut": cut,
        "labels": len(names),
        "fill": round(source.fill, 4),
        "epochs": round(cfg.steps * cfg.batch / source.count, 3),
        "flops": cfg.steps * cfg.batch * count.row_flops(model.cfg, model.cfg.context, predicted=model.cfg.context if cfg.task == "answer" else 0),
        **{f"{name}{end}": getattr(one, part) for name, one in found.items() for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))},
        **{f"baseline_{name}": value for name, value in baseline.items()},
        **results(out),
    }


def estimate(cfg: FinetuneConfig, step: Step) -> dict[str, float]:
    made = step.upstream("rows")
    if made is not None and made.stage.name == "exercises" and made.cfg.kind != cfg.task:
        raise ValueError(f"task = {cfg.task} needs other rows than exercises of kind = {made.cfg.kind}")
    model = plan.model_of(step)
    if model is None:
        return {}
    check_shape(model, cfg.task, "base")
    mesh.check(cfg.mesh, model, cfg.mesh.ranks)
    return plan.training(step, cfg.steps * cfg.batch * model.context, model.context)


def check_shape(cfg: ModelConfig, task: Task, place: str) -> None:
    """ValueError where a model of this shape cannot do the task: a decoder has not read what follows a word, nor a question's text twice."""
    if cfg.shape not in TASKS[task].shapes:
        raise ValueError(f"task = {task} needs a base of shape {' or '.join(TASKS[task].shapes)}, and {place} is of shape {cfg.shape}")


def read(path: Path, task: Task) -> list[Row]:
    def check(row: Row) -> str:
        if missing := [name for name in TASKS[task].columns if name not in row]:
            return f"task = {task} reads {', '.join(TASKS[task].columns)}; {', '.join(missing)} is missing, and there are {', '.join(sorted(row))}"
        return TASKS[task].check(row)

    return labelled.read(path, check)


def said(row: Row, task: Task) -> list[str]:
    """The labels of a row. Where an entity of a kind begins, one may go on, though no training row shows it."""
    if task == "classify":
        return [str(row["label"])]
    return [name for tag in row["tags"] for name in ((f"B-{tag[2:]}", f"I-{tag[2:]}") if tag[:2] in ("B-", "I-") else (tag,))]


def encoded(
    rows: Sequence[Row], names: Sequence[str], words: Tokenizer, model: ModelConfig, cfg: FinetuneConfig
) -> tuple[list[labelled.Example], int, list[extractive.Window]]:
    """Rows as examples, how many texts did not fit, and, for answers, where each example's text stands."""
    if model.shape == "encoder":
        for role in ("cls", "sep"):
            words.need(role)
    if cfg.task == "answer":
        examples, windows = extractive.windows(rows, words, model.context, cfg.stride)
        return examples, sum(count > 1 for count in Counter(window.row for window in windows).values()), windows
    if cfg.task == "tag":
        return *labelled.tags(rows, names, words, model.context), []
    return *labelled.texts(rows, names, words, model.context, last=model.shape == "decoder"), []


@torch.no_grad()
def chosen(model: Model, source: LabelledRows, names: Sequence[str]) -> list[list[str]]:
    """The likeliest label at each picked place of each example."""
    found: dict[int, list[str]] = {}
    for numbers, batch in _batches(model, source):
        best = model.classify(hidden_of(model, batch)).argmax(-1).tolist()
        for owners, classes in zip(source.owner[numbers].tolist(), best, strict=True):
            for item, number in zip(owners, classes, strict=True):
                if item >= 0:
                    found.setdefault(item, []).append(names[number])
    return [found[item] for item in sorted(found)]


@torch.no_grad()
def spans(model: Model, source: LabelledRows) -> list[np.ndarray]:
    """The scores of each example's tokens as the beginning and as the end of the answer, (2, tokens)."""
    found: dict[int, np.ndarray] = {}
    for numbers, batch in _batches(model, source):
        both = model.classify(model(batch["tokens"], batch["at"], batch["segment"], types=batch["types"])).float().cpu().numpy()
        for row, number in enumerate(numbers.tolist()):
            for segment, item in enumerate(source.owner[number][source.owner[number] >= 0].tolist(), 1):
                found[item] = both[row, source.segment[number] == segment].T
    return [found[item] for item in sorted(found)]


def _batches(model: Model, source: LabelledRows) -> Iterator[tuple[np.ndarray, Batch]]:
    """All rows, in order, where the model is."""
    model.eval()
    for numbers in order.in_order(lambda numbers: numbers, source.count, source.batch):
        yield numbers, {name: column.to(model.embed.weight.device) for name, column in source.rows(numbers).items()}


def scores(train: Sequence[Row], heldout: Sequence[Row], predicted: Sequence[Any], task: Task) -> tuple[dict[str, Estimate], dict[str, float]]:
    """How good predictions are, and the same measures of the baseline that eval/labels.py has for the task."""
    wanted = [row[{"classify": "label", "tag": "tags", "answer": "answer"}[task]] for row in heldout]
    if task == "classify":
        wanted = [str(label) for label in wanted]
        baseline: Sequence[Any] = measure.majority([str(row["label"]) for row in train], len(heldout))
    elif task == "tag":
        baseline = measure.looked_up([row["words"] for row in train], [row["tags"] for row in train], [row["words"] for row in heldout])
    else:
        baseline = [measure.nearest(row["question"], row["context"]) for row in heldout]
    score = {"classify": measure.class_scores, "tag": measure.entity_scores, "answer": measure.answer_scores}[task]
    return score(wanted, predicted), {name: one.value for name, one in score(wanted, baseline).items()}
