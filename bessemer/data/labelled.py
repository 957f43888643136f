"""Labelled rows: texts with a class, words with a tag each. A batch names the places that are classified, and their classes.

Short texts share a row and do not see each other, as everywhere. Questions with answers in a text: extractive.py.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bessemer.core import jsonl
from bessemer.data import order
from bessemer.data.chat import pack
from bessemer.data.seq2seq import within
from bessemer.data.tokens import Batch
from bessemer.tokenizer.tokenizer import Tokenizer


class Example(NamedTuple):
    ids: Sequence[int]
    types: Sequence[int]  # 0: first text, 1: second
    picked: Sequence[int]  # places in it that are classified
    targets: Sequence[int]  # the class of each; where an answer begins
    ends: Sequence[int] = ()  # where an answer ends; empty for classes


def read(path: Path, check: Callable[[dict[str, Any]], str]) -> list[dict[str, Any]]:
    """JSONL rows. `check` says what is wrong with one, or nothing; ValueError names that row."""
    rows = jsonl.read(path)
    for number, row in enumerate(rows, 1):
        if wrong := check(row):
            raise ValueError(f"{path}: row {number}: {wrong}")
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows


def wrong_text(row: dict[str, Any]) -> str:
    """What keeps {text, label} or {text, other, label} from being a row with a class."""
    for name in ("text", "other"):
        if not isinstance(row.get(name, "" if name == "other" else None), str):
            return f"{name} must be a text"
    if not isinstance(row.get("label"), str | int):
        return "label must be a word or a whole number"
    return ""


def wrong_tags(row: dict[str, Any]) -> str:
    """What keeps {words, tags} from being a row of tagged words: BIO tags too must be in order (IOB2)."""
    for name in ("words", "tags"):
        if not isinstance(row.get(name), list) or not all(isinstance(one, str) and one.strip() for one in row[name]):
            return f"{name} must be a list of words"
    words, tags = row["words"], row["tags"]
    if not words or len(words) != len(tags):
        return f"there are {len(words)} words and {len(tags)} tags: as many of both are needed, and at least one"
    for word, before, tag in zip(words, ["O", *tags], tags, strict=False):
        if tag.startswith("I-") and before not in (tag, f"B-{tag[2:]}"):
            return f"word {word!r} has tag {tag} after {before}: what begins must have B-{tag[2:]}"
    return ""


def classes(names: Iterable[Any]) -> list[str]:
    """The label set of training rows, sorted. ValueError where there is nothing to choose from."""
    found = sorted({str(name) for name in names})
    if len(found) < 2:
        raise ValueError(f"the rows have one label only ({', '.join(found)}): there is nothing to tell apart")
    return found


def number(name: Any, labels: Sequence[str], row: int) -> int:
    """The class of a label. ValueError where it is not in the set."""
    if str(name) not in labels:
        raise ValueError(f"row {row}: label {str(name)!r} is not one of the training rows' ({', '.join(labels)})")
    return labels.index(str(name))


def framed(parts: Sequence[Sequence[int]], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """[CLS] first [SEP] second [SEP] as ids and types. Without those tokens: nothing, and the end of text."""
    ids = [] if tokenizer.cls is None else [tokenizer.cls]
    types = [0] * len(ids)
    for kind, part in enumerate(parts):
        ids += [*part, tokenizer.end_of_text if tokenizer.sep is None else tokenizer.sep]
        types += [kind] * (len(part) + 1)
    return ids, types


def texts(rows: Sequence[dict[str, Any]], labels: Sequence[str], tokenizer: Tokenizer, context: int, last: bool = False) -> tuple[list[Example], int]:
    """Rows {text, label} or {text, other, label} as examples, and how many were cut to fit `context`: the longer text loses its end.

    The class is read at the first place (cls), or at the `last`: a decoder has seen the text only there.
    """
    sides = [tokenizer.encode_batch([row.get(name) or "" for row in rows]) for name in ("text", "other")]
    found, cut = [], 0
    for index, (row, first, second) in enumerate(zip(rows, *sides, strict=True), 1):
        parts = [first, second] if row.get("other") else [first]
        room = context - len(framed([[] for _ in parts], tokenizer)[0])
        if room < len(parts):
            raise ValueError(f"context {context} has no room for a text between its special tokens")
        cut += sum(map(len, parts)) > room
        ids, types = framed(shortened(parts, room), tokenizer)
        found.append(Example(ids, types, [len(ids) - 1 if last else 0], [number(row["label"], labels, index)]))
    return found, cut


def shortened(parts: Sequence[list[int]], room: int) -> list[list[int]]:
    """One or two texts cut to `room` tokens together: the longer one first, then both alike."""
    if len(parts) == 1:
        return [parts[0][:room]]
    first, second = map(len, parts)
    half = room // 2
    kept = min(first, max(room - second, room - half))
    return [parts[0][:kept], parts[1][: room - kept]]


def tags(rows: Sequence[dict[str, Any]], labels: Sequence[str], tokenizer: Tokenizer, context: int) -> tuple[list[Example], int]:
    """Rows {words, tags} as examples, and how many were cut to fit `context`: they lose their last words.

    A word's tag is read at its first token; that of a word the tokenizer drops, such as a lone control character, at the next one.
    """
    found, cut = [], 0
    ahead = 0 if tokenizer.cls is None else 1
    for index, (row, (ids, spans)) in enumerate(zip(rows, encoded([" ".join(row["words"]) for row in rows], tokenizer), strict=True), 1):
        begins = np.cumsum([0, *(len(word) + 1 for word in row["words"])])[:-1]
        places = ahead + np.searchsorted(spans[:, 1], begins, side="right")
        cut += len(ids) > context - ahead - 1
        framed_ids, types = framed([ids[: context - ahead - 1]], tokenizer)
        kept = int((places < len(framed_ids) - 1).sum())
        found.append(Example(framed_ids, types, places[:kept].tolist(), [number(tag, labels, index) for tag in row["tags"][:kept]]))
    return found, cut


def encoded(texts: Sequence[str], tokenizer: Tokenizer) -> list[tuple[list[int], np.ndarray]]:
    """The ids of each text and the characters of it that each token spans, (tokens, 2)."""
    found = tokenizer.backend.encode_batch(list(texts), add_special_tokens=False)
    return [(encoding.ids, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)) for encoding in found]


class LabelledRows:
    """Source of packed examples.

    A batch holds tokens, at, segment (number of the example, 0 = padding), types, all (B, T), and picked, targets, token_weight (B, P);
    where examples have ends, ends (B, P) too: the targets are then places in the row. `owner` (rows, P) numbers the example of each
    picked place, -1 without one, so that what a model says finds its way back.
    """

    def __init__(self, examples: Sequence[Example], context: int, batch: int, seed: int):
        rows = pack([len(example.ids) for example in examples], context)
        self.batch, self.seed, self.count = batch, seed, len(rows)
        most = max(sum(len(examples[item].picked) for item in items) for items in rows)
        self.tokens, self.segment, self.types = (np.zeros((self.count, context), dtype=np.int32) for _ in range(3))
        self.picked, self.targets, self.ends = (np.zeros((self.count, most), dtype=np.int32) for _ in range(3))
        self.owner = np.full((self.count, most), -1)
        self.spans = any(example.ends for example in examples)
        for row, items in enumerate(rows):
            begin = place = 0
            for segment, item in enumerate(items, 1):
                example = examples[item]
                here, there = slice(begin, begin + len(example.ids)), slice(place, place + len(example.picked))
                self.tokens[row, here], self.segment[row, here], self.types[row, here] = example.ids, segment, example.types
                self.picked[row, there], self.owner[row, there] = np.add(example.picked, begin), item
                self.targets[row, there] = np.add(example.targets, begin if self.spans else 0)
                if self.spans:
                    self.ends[row, there] = np.add(example.ends, begin)
                begin, place = here.stop, there.stop
        self.fill = float((self.segment > 0).mean())

    def __call__(self, step: int) -> Batch:
        return self.rows(order.rows(step, self.batch, self.count, self.seed))

    def rows(self, numbers: np.ndarray) -> Batch:
        """The named rows as a batch."""
        names = ("tokens", "segment", "types", "picked", "targets", *(["ends"] if self.spans else []))
        found = {name: getattr(self, name)[numbers].astype(np.int64) for name in names}
        found |= {"at": within(found["segment"]), "token_weight": (self.owner[numbers] >= 0).astype(np.float32)}
        return {name: torch.from_numpy(column) for name, column in found.items()}
