"""Find instruction rows that contradict or repeat each other, show them, and leave a set that says one thing."""

import shutil
from collections import Counter
from pathlib import Path

from bessemer.core import jsonl
from bessemer.corpus.ambiguity import exchange, resolve
from bessemer.corpus.ambiguity.resolve import AmbiguityConfig
from bessemer.corpus.contamination import items


def ambiguity(dialogues: Path, *, out: Path, cfg: AmbiguityConfig) -> dict[str, float]:
    """train.jsonl without the rows that the config wants gone, laid out as it was, and ambiguous.jsonl: every group with what was done.

    `dialogues` is a folder with train.jsonl (what else of .jsonl it holds is copied) or a file of rows: chat rows (messages or
    conversations), or prompt and response, question and answer, instruction, input and output. Of a conversation its last answer is
    judged. Rows without a prompt and an answer pass unjudged and are counted. All rows are in memory. ValueError where none can be judged.
    """
    file = dialogues / "train.jsonl" if dialogues.is_dir() else dialogues
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: name a file of rows or a folder with train.jsonl")
    rows = items.records(file)
    read = [exchange.of(row) for row in rows]
    judged = [number for number, pair in enumerate(read) if pair and all(pair)]
    if not judged:
        raise ValueError(f"{file}: no row has a prompt and an answer: messages, or prompt and response, or instruction and output")
    pairs = [pair for number in judged if (pair := read[number])]
    groups = resolve.resolve(pairs, cfg)
    gone = {judged[number] for group in groups for number, kept in zip(group.rows, group.kept, strict=True) if not kept}
    if len(gone) == len(rows):
        raise ValueError(f"{file}: no row is left: all {len(rows)} contradict another")
    jsonl.write(out / "train.jsonl", (row for number, row in enumerate(rows) if number not in gone))
    jsonl.write(out / "ambiguous.jsonl", resolve.shown(groups, [rows[number] for number in judged], pairs, [number + 1 for number in judged]))
    if dialogues.is_dir():
        for other in sorted(dialogues.glob("*.jsonl")):
            if other.name not in ("train.jsonl", "ambiguous.jsonl"):
                shutil.copyfile(other, out / other.name)
    numbers: dict[str, float] = {"rows": len(rows), "kept": len(rows) - len(gone), "removed": len(gone), "not judged": len(rows) - len(judged)}
    count = Counter(group.kind for group in groups)
    members = Counter({kind: sum(len(group.rows) for group in groups if group.kind == kind) for kind in count})
    return numbers | {f"groups: {kind}": n for kind, n in sorted(count.items())} | {f"rows: {kind}": n for kind, n in sorted(members.items())}
