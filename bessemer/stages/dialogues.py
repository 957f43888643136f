"""Make question-answer rows from documentation: dialogues to train on, held-out questions, and multiple choice to test with.

Entries are held out, not rows: no dialogue to train on asks for, or shows, the description of an entry that is tested.
"""

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bessemer.core import jsonl, log
from bessemer.core.artifact import RUN, write_json
from bessemer.core.config import Count, Fraction, Whole
from bessemer.corpus import documents as files
from bessemer.corpus.dialogues import questions


@dataclass(frozen=True)
class DialoguesConfig:
    heldout: Fraction = 0.1  # of the entries, kept for testing
    phrasings: Count = 1  # ways in which each description is asked for
    per_kind: Count = 8000  # training rows of a kind at most
    max_rows: Count = 30_000  # training rows at most
    heldout_per_kind: Count = 300  # test rows of a kind at most
    system: Fraction = 0.1  # of the training rows begin with a system message
    seed: Whole = 0

    version: ClassVar[int] = 2


def dialogues(documents: Path, tokens: Path | None = None, *, out: Path, cfg: DialoguesConfig) -> dict[str, float]:
    """Write train.jsonl and heldout.jsonl (chat rows: id, kind, entry, url, messages) and choice.jsonl (question, choices, answer).

    No training row comes from a document that `tokens` keeps for validation: bits per byte are measured on those. ValueError where
    the documents hold no entries.
    """
    validation, held_out_documents, unseen = validation_documents(tokens) if tokens else set[str](), 0, set[str]()
    found: list[questions.Entry] = []
    for document in log.track(files.read(documents, ["id", "url", "text"]), "dialogues", files.count(documents)):
        here = list(questions.entries(document["text"], document["url"] or ""))
        found += here
        if document["id"] in validation:
            held_out_documents += 1
            unseen |= {entry.name for entry in here}
    entries, ambiguous = questions.unambiguous(found)
    held = [entry for entry in entries if questions.is_held_out(entry, cfg.heldout, cfg.seed)]
    kept = [entry for entry in entries if not questions.is_held_out(entry, cfg.heldout, cfg.seed) and entry.name not in unseen]
    if not any(entry.summary for entry in entries):
        raise ValueError(
            f"{documents}: no documented entries in {files.count(documents)} documents; "
            'pages must begin with "module NAME" and describe entries such as "function NAME(ARGUMENTS)", as those of the pydoc stage do'
        )
    if not any(entry.summary for entry in kept):
        raise ValueError(
            f"none of {len(entries)} entries is left to train on: heldout is {cfg.heldout}, and {held_out_documents} documents are for validation"
        )
    asked = itertools.chain(questions.rows(kept, entries, cfg.seed, cfg.phrasings, cfg.system), questions.greetings(cfg.seed))
    train = capped(asked, cfg.per_kind, cfg.max_rows)
    single = (row for row in questions.rows(held, entries, cfg.seed) if row["kind"] != "turns")
    heldout = capped(single, cfg.heldout_per_kind, cfg.max_rows)
    choice = capped(questions.choices(held, {entry.summary for entry in kept}, cfg.seed), cfg.max_rows, cfg.max_rows)
    for name, rows in {"train": train, "heldout": heldout, "choice": choice}.items():
        jsonl.write(out / f"{name}.jsonl", rows)
    write_json(out / RUN / "without.json", [entry.name for entry in entries if not entry.summary])
    numbers: dict[str, float] = {"train": len(train), "heldout": len(heldout), "choice": len(choice), "entries": len(entries)}
    numbers |= {"ambiguous": ambiguous, "without_description": sum(not entry.summary for entry in entries)}
    numbers |= {"held_out_documents": held_out_documents} if tokens else {}
    return numbers | {f"train: {kind}": count for kind, count in sorted(Counter(row["kind"] for row in train).items())}


def validation_documents(tokens: Path) -> set[str]:
    """The ids of the documents that a tokens artifact keeps for validation."""
    files = sorted(tokens.glob("*/val_documents.txt"))
    if not files:
        raise FileNotFoundError(f"{tokens} holds no DOMAIN/val_documents.txt: not a tokens artifact")
    return {name for file in files for name in file.read_text(encoding="utf-8").split("\n") if name}


def capped(rows: Iterable[questions.Row], per_kind: int, most: int) -> list[questions.Row]:
    """At most so many rows, each question once, in the order of their ids: a fixed shuffle."""
    counts: Counter[str] = Counter()
    taken = []
    for row in sorted({row["id"]: row for row in rows}.values(), key=lambda row: row["id"]):
        counts[row["kind"]] += 1
        if counts[row["kind"]] <= per_kind:
            taken.append(row)
    return taken[:most]
