"""Make supervised rows from documentation: passages with a class, words with tags, questions about a passage, texts with a summary.

The labels are silver: read off the pages by rule, so they are there for any documentation, and wrong where a rule is (corpus/exercises/rows.py
says where). They show that a model can be fine-tuned, and whether pretraining helps it; how well it would do on a task of yours they do not.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from bessemer.core import jsonl
from bessemer.core.config import Count, Fraction
from bessemer.corpus import documents as files
from bessemer.corpus.exercises import rows as exercise
from bessemer.corpus.exercises.sections import Section, sections


@dataclass(frozen=True)
class ExercisesConfig:
    kind: Literal["classify", "tag", "answer", "summarise"]  # classes of passages, tags of words, answers in a passage, first sentences of texts
    heldout: Fraction = 0.2  # of the pages, kept for testing
    train_rows: Count = 6000  # at most
    heldout_rows: Count = 600  # at most

    version: ClassVar[int] = 1


def exercises(documents: Path, *, out: Path, cfg: ExercisesConfig) -> dict[str, float]:
    """Write train.jsonl and heldout.jsonl. A page is on one side only, and so is an input that several pages have.

    classify: {text, label}. tag: {words, tags}. answer: {question, context, answer, start, kind}. summarise: {source, target}. All with
    id, entry, page, url. ValueError where the documents hold no entries, or a side has no rows.
    """
    found: list[Section] = []
    for page in files.read(documents, ["id", "text", "url"]):
        found += sections(page["text"], page["id"], page["url"])
    if not found:
        raise ValueError(f"{documents} holds no entries such as 'function name(arguments)': there is nothing to make rows of")
    made = exercise.once(list(exercise.ROWS[cfg.kind](found)), cfg.kind)
    train, heldout = exercise.split(made, cfg.heldout)
    numbers: dict[str, float] = {}
    for name, side, most in (("train", train, cfg.train_rows), ("heldout", heldout, cfg.heldout_rows)):
        rows = exercise.even(side, most)
        if not rows:
            raise ValueError(
                f"{documents} gives no {name} rows of kind = {cfg.kind}: it has {len(made)} rows, and heldout is {cfg.heldout:g} of its pages"
            )
        jsonl.write(out / f"{name}.jsonl", rows)
        groups = Counter(group for row in rows if (group := row.get("label") or row.get("kind")))
        numbers |= {name: len(rows), f"{name}_pages": len({row["page"] for row in rows})}
        numbers |= {f"{name}: {group}": count for group, count in sorted(groups.items())}
    return numbers
