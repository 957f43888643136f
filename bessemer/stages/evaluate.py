"""Measure models on the same held-out questions and text: bits per byte, answers, multiple choice, all with error bars."""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from bessemer.core import artifact, jsonl, log
from bessemer.core.config import Count
from bessemer.core.recipe import Step
from bessemer.corpus.contamination import verdict
from bessemer.data import chat as chat_rows
from bessemer.eval import answer, measure, scores
from bessemer.eval.measure import Row, Subject
from bessemer.scale import plan


@dataclass(frozen=True)
class EvaluateConfig:
    questions: Count = 200  # held-out questions answered, spread evenly over all of them
    choices: Count = 200  # multiple-choice questions, likewise
    text_tokens: Count = 50_000  # held-out text that is read, about
    document_tokens: Count = 1024  # of one document at most, so that many documents are read
    max_tokens: Count = 64  # length of an answer
    confidence: Annotated[float, Interval(gt=0, lt=1)] = 0.95  # of the intervals


def evaluate(
    models: tuple[Path, ...], dialogues: Path, tokens: Path, contamination: Path | None = None, *, out: Path, cfg: EvaluateConfig
) -> dict[str, float]:
    """Write scores.json and answers.jsonl. With `contamination`, a decontaminate artifact that has judged `dialogues`, the questions that
    the training text holds and those that it does not are also scored apart."""
    if not models:
        raise ValueError("models is empty: name at least one checkpoint")
    asked, chosen = chat_rows.read(dialogues / "heldout.jsonl"), read_choices(dialogues / "choice.jsonl")
    questions, choices = scores.spread(asked, cfg.questions), scores.spread(chosen, cfg.choices)
    leaked: dict[str, list[bool]] = {}
    if contamination:
        leaked |= dict.fromkeys(scores.ANSWERS, scores.spread(verdict.contaminated(contamination, dialogues, "heldout.jsonl", asked), cfg.questions))
        leaked |= dict.fromkeys(scores.CHOICES, scores.spread(verdict.contaminated(contamination, dialogues, "choice.jsonl", chosen), cfg.choices))
    parts: dict[str, Callable[[Subject], Row]] = {
        "text": lambda subject: measure.text(subject, tokens, cfg.text_tokens, cfg.document_tokens),
        "answers": lambda subject: measure.answers(subject, questions, cfg.max_tokens),
        "choices": lambda subject: measure.choices(subject, choices),
    }
    names = artifact.names_of(models, "models")
    items = {name: _measure(name, path, parts, out / artifact.RUN) for name, path in zip(names, models, strict=True)}

    kinds = [row.get("kind", "other") for row in questions]
    found = [row for name in names for row in scores.of(name, items[name], kinds, cfg.confidence)]
    found += [row for name in names for row in scores.split(name, items[name], leaked, cfg.confidence)]
    differences = [row for pair in itertools.pairwise(names) for row in scores.differences(*pair, items, cfg.confidence)]
    chance = sum(1 / len(row["choices"]) for row in choices) / len(choices)  # what guessing scores
    summary = {"models": names, "confidence": cfg.confidence, "chance": round(chance, scores.DIGITS), "scores": found, "differences": differences}
    artifact.write_json(out / "scores.json", summary)
    jsonl.write(out / "answers.jsonl", _answered(questions, items))
    return {f"{row['model']}.{row['metric']}": row["value"] for row in found if row["kind"] == scores.ALL}


def estimate(cfg: EvaluateConfig, step: Step) -> dict[str, float]:
    """About what it costs: each question taken as 64 tokens, each choice with its question as 48."""
    first = step.upstream("models")
    model = plan.model_of(first) if first else None
    if first is None or model is None:
        return {}
    answer.check_room(model.context, cfg.max_tokens)
    tokens = 1.5 * cfg.text_tokens + cfg.questions * (64 + cfg.max_tokens) + cfg.choices * 4 * 48
    cost = plan.generation(first, len(step.inputs["models"]) * tokens, cfg.max_tokens)
    return {name: cost[name] for name in ("flops", "seconds")}


def read_choices(path: Path) -> list[Row]:
    """Multiple-choice rows {question, choices, answer}, `answer` the number of the right choice. ValueError names a line that is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: dialogues holds heldout.jsonl and choice.jsonl")
    rows = jsonl.read(path)
    for number, row in enumerate(rows, 1):
        if not row.get("question") or row.get("answer") not in range(len(row.get("choices") or ())):
            raise ValueError(f"{path}: row {number}: needs a question, choices, and the number of the right one as answer")
        if not all(isinstance(option, str) and option for option in row["choices"]):
            raise ValueError(f"{path}: row {number}: every choice must be text, and not empty")
    if not rows:
        raise ValueError(f"{path} holds no questions")
    return rows


def _measure(name: str, path: Path, parts: dict[str, Callable[[Subject], Row]], memory: Path) -> Row:
    """All numbers of one model. Each part is kept as it is done, so a killed run does none twice."""
    items: Row = {}
    subject = None
    for part, measured in parts.items():
        file = memory / f"{name}.{part}.json"
        if not file.is_file():
            subject = subject or measure.load(path)
            began = time.perf_counter()
            artifact.write_json(file, measured(subject))
            log.say(f"{name}: {part} in {time.perf_counter() - began:.1f}s")
        items |= json.loads(file.read_text(encoding="utf-8"))
    return items


def _answered(questions: Sequence[Row], items: dict[str, Row]) -> list[Row]:
    rows = []
    for i, row in enumerate(questions):
        given = {name: {"text": own["answers"][i], "rouge_l": round(own["rouge_l"][i], scores.DIGITS)} for name, own in items.items()}
        asked = {"id": row.get("id", str(i)), "kind": row.get("kind", "other"), "prompt": row["messages"][:-1]}
        rows.append({**asked, "reference": row["messages"][-1]["content"], "answers": given})
    return rows
