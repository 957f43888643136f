"""Make preference pairs: two sampled answers per prompt, labelled by a verifier that compares them with the documentation."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.core import artifact, device, jsonl, log
from bessemer.core.config import Count, Fraction, Positive, Whole
from bessemer.core.recipe import Step
from bessemer.data import chat, checkpoint
from bessemer.decode.generate import generate
from bessemer.decode.sample import Sampling
from bessemer.eval.overlap import exact_match, rouge_l
from bessemer.model.model import Model
from bessemer.scale import plan
from bessemer.tokenizer.tokenizer import Tokenizer

SHARD = 256  # prompts answered between two files, so that a killed run loses little


@dataclass(frozen=True)
class PreferencesConfig:
    prompts: Count = 1500  # questions put to the model, drawn from the training dialogues
    temperature: Positive = 1.0
    top_p: Fraction = 0.95
    max_tokens: Count = 64
    margin: Fraction = 0.1  # pairs whose scores lie closer than this say nothing and are left out
    seed: Whole = 0


def preferences(model: Path, dialogues: Path, *, out: Path, cfg: PreferencesConfig) -> dict[str, float]:
    policy, words = checkpoint.load(model, device.pick())
    if cfg.max_tokens >= policy.cfg.context:
        raise ValueError(f"max_tokens {cfg.max_tokens} leaves no room for a prompt in a context of {policy.cfg.context}")
    rows = [row for row in chat.read(dialogues / "train.jsonl") if row["messages"] and row["messages"][-1]["role"] == "assistant"]
    random.Random(cfg.seed).shuffle(rows)
    rows = rows[: cfg.prompts]
    judged: list[dict[str, Any]] = []
    with log.progress("preferences", len(rows)) as bar:
        for number, begin in enumerate(range(0, len(rows), SHARD)):
            judged += _shard(out, number, rows[begin : begin + SHARD], policy, words, cfg)
            bar.advance(min(SHARD, len(rows) - begin), note=f"{sum(row['chosen'] is not None for row in judged)} pairs")
    pairs = [row for row in judged if row["chosen"] is not None]
    if not pairs:
        raise ValueError(f"no two of {len(rows)} answer pairs differ by {cfg.margin} for the verifier: raise temperature or lower margin")
    jsonl.write(out / "pairs.jsonl", pairs)
    jsonl.write(out / "ties.jsonl", [row for row in judged if row["chosen"] is None])
    scores = [score for row in judged for score in row["scores"]]
    return {
        "prompts": len(rows),
        "too_long": len(rows) - len(judged),
        "pairs": len(pairs),
        "ties": len(judged) - len(pairs),
        "mean_score": round(sum(scores) / len(scores), 4),
    }


def estimate(cfg: PreferencesConfig, step: Step) -> dict[str, float]:
    return plan.generation(step, cfg.prompts * 2 * cfg.max_tokens * 2, cfg.max_tokens)  # a prompt is about as long as its answer


def verify(answer: str, reference: str, ended: bool) -> float:
    """How well an answer agrees with the documentation: 1 where they match exactly, else 0.9 of the ROUGE-L F1; half of that where it was
    cut off before it ended. A verifier, no taste."""
    agreement = 1.0 if exact_match(answer, reference) else 0.9 * rouge_l(answer, reference)
    return agreement if ended else agreement / 2


def _shard(out: Path, number: int, rows: Sequence[dict[str, Any]], policy: Model, words: Tokenizer, cfg: PreferencesConfig) -> list[dict[str, Any]]:
    """Two judged answers for each row, from disk where an earlier run got this far."""
    file = out / artifact.RUN / "resume" / f"answers-{number:05d}.jsonl"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        jsonl.write(file, _judge(number, rows, policy, words, cfg))
    return jsonl.read(file)


def _judge(number: int, rows: Sequence[dict[str, Any]], policy: Model, words: Tokenizer, cfg: PreferencesConfig) -> Iterator[dict[str, Any]]:
    prompts = [words.chat(row["messages"][:-1], reply=True)[0] for row in rows]
    room = policy.cfg.context - cfg.max_tokens
    fitting = [(row, prompt) for row, prompt in zip(rows, prompts, strict=True) if len(prompt) < room]
    seed = cfg.seed * 1_000_003 + number
    sampling = Sampling(cfg.max_tokens, cfg.temperature, top_p=cfg.top_p, seed=seed)
    answers = generate(policy, [prompt for _, prompt in fitting for _ in range(2)], sampling, set(words.ends))
    for i, (row, _) in enumerate(fitting):
        reference = row["messages"][-1]["content"]
        pair = answers[2 * i : 2 * i + 2]
        texts = [words.decode(answer).strip() for answer in pair]
        scores = [verify(text, reference, len(answer) < cfg.max_tokens) for text, answer in zip(texts, pair, strict=True)]
        better = int(scores[1] > scores[0])
        told = texts[0] != texts[1] and abs(scores[0] - scores[1]) >= cfg.margin
        yield {
            "id": row["id"],
            "kind": row.get("kind"),
            "messages": row["messages"][:-1],
            "chosen": texts[better] if told else None,
            "rejected": texts[1 - better] if told else None,
            "scores": [round(scores[better], 4), round(scores[1 - better], 4)],
            "answers": texts,
            "reference": reference,
        }
