"""Token files: a folder a domain, in it all documents of a split one after another, each followed by the end-of-text token.

DOMAIN/train.bin           the ids, uint16 or uint32, whichever the vocabulary fits
DOMAIN/train_offsets.bin   (documents + 1,) int64: document i is ids[offsets[i]:offsets[i + 1]]
DOMAIN/train_bytes.bin     (documents,) int64: UTF-8 bytes of each document's text, for bits per byte
DOMAIN/train_documents.txt document ids, one a line
DOMAIN/train_lines.bin     (documents + 1,) int64: where in that file each line begins

and the same for val. All are written as a stream and memory-mapped, so neither side is bounded by memory.
"""

import contextlib
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bessemer.data import order
from bessemer.tokenizer.tokenizer import Tokenizer

Batch = dict[str, torch.Tensor]
SPLITS = ("train", "val")
FILES = (".bin", "_offsets.bin", "_bytes.bin", "_documents.txt", "_lines.bin")
MOST_ALIKE = 5  # ids that are listed where their beginning is given


@dataclass(frozen=True)
class TokenFile:
    """One split of one domain, memory-mapped."""

    ids: np.ndarray  # (tokens,)
    offsets: np.ndarray  # (documents + 1,)
    lengths: np.ndarray  # (documents,) bytes of text
    documents: Sequence[str]

    def document_at(self, token: int) -> int:
        """The number of the document that holds a token position."""
        return int(np.searchsorted(self.offsets, token, side="right")) - 1


class Writer:
    """One split of one domain while it is written. Use it as a context manager."""

    def __init__(self, folder: Path, split: str, vocab: int, end_of_text: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.paths = [folder / f"{split}{name}" for name in FILES]
        self.kind, self.end_of_text = _kind(vocab), end_of_text
        self.documents = self.tokens = self.bytes = self.characters = 0

    def __enter__(self) -> "Writer":
        self.stack = contextlib.ExitStack()
        self.ids, self.offsets, self.lengths, self.names, self.lines = (self.stack.enter_context(path.open("wb")) for path in self.paths)
        self._place()
        return self

    def add(self, name: str, size: int, ids: Sequence[int]) -> None:
        """Write a document: its id, the bytes of its text, its tokens."""
        line = f"{name}\n".encode()
        self.ids.write(np.asarray([*ids, self.end_of_text], dtype=self.kind).tobytes())
        self.lengths.write(size.to_bytes(8, "little"))
        self.names.write(line)
        self.documents, self.tokens, self.bytes = self.documents + 1, self.tokens + len(ids) + 1, self.bytes + size
        self.characters += len(line)
        self._place()

    def _place(self) -> None:
        self.offsets.write(self.tokens.to_bytes(8, "little"))
        self.lines.write(self.characters.to_bytes(8, "little"))

    def __exit__(self, *_: Any) -> None:
        self.stack.close()


class _Names(Sequence[str]):
    """The ids of a split's documents, read from disk when they are asked for."""

    def __init__(self, text: Path, lines: np.ndarray):
        self.path, self.text, self.lines = text, np.memmap(text, dtype=np.uint8, mode="r"), lines

    def __len__(self) -> int:
        return len(self.lines) - 1

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return [self[number] for number in range(*which.indices(len(self)))]
        begin, end = self.lines[range(len(self))[which] :][:2]
        return self.text[begin : end - 1].tobytes().decode()

    def beginning(self, words: bytes) -> Iterator[int]:
        """The lines that begin with these bytes, searched as one text: a hundred million lines take seconds."""
        if self.text[: len(words)].tobytes() == words:
            yield 0
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            at = text.find(b"\n" + words)
            while at >= 0:
                yield int(np.searchsorted(self.lines, at + 1))
                at = text.find(b"\n" + words, at + 1)


def numbers_of(documents: Sequence[str], name: str) -> dict[str, list[int]]:
    """Where the document with this id stands, each of its copies, by its id; those whose ids begin so where none is called that.

    At most MOST_ALIKE different ids.
    """

    def beginning(word: str) -> Iterator[int]:
        if isinstance(documents, _Names):
            return documents.beginning(word.encode())
        return (number for number, document in enumerate(documents) if f"{document}\n".startswith(word))

    if exact := list(beginning(f"{name}\n")):
        return {name: exact}
    alike: dict[str, list[int]] = {}
    for number in beginning(name):
        found = documents[number]
        if found not in alike and len(alike) == MOST_ALIKE:
            break
        alike.setdefault(found, []).append(number)
    return alike


def domains(folder: Path) -> list[str]:
    """The domains of a tokens artifact, by name. FileNotFoundError where it is none."""
    found = sorted(path.parent.name for path in folder.glob("*/train.bin"))
    if not found:
        raise FileNotFoundError(f"{folder} holds no DOMAIN/train.bin: not a tokens artifact")
    return found


def load(folder: Path, split: str, vocab: int) -> TokenFile:
    """Open a split of one domain. `vocab` decides the width of an id, as it did when the file was written."""
    path, *rest = (folder / f"{split}{name}" for name in FILES)
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {path.name}: not a domain of a tokens artifact")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: no document went to this split")
    ids = _mapped(path, _kind(vocab))
    offsets, lengths, lines = (_mapped(file, np.int64) for file in (rest[0], rest[1], rest[3]))
    if offsets[-1] != len(ids):
        raise ValueError(f"{path} holds {len(ids)} tokens of {offsets[-1]}: it is cut off, or belongs to another vocabulary than {vocab}")
    return TokenFile(ids, offsets, lengths, _Names(rest[2], lines))


def load_all(folder: Path, split: str, vocab: int) -> dict[str, TokenFile]:
    """Every domain of a tokens artifact that has a document in this split. ValueError where none has."""
    found = {name: load(folder / name, split, vocab) for name in domains(folder) if (folder / name / f"{split}.bin").stat().st_size}
    if not found:
        raise ValueError(f"{folder}: no document went to {split}: more of them are needed, or another held_out of tokens")
    return found


def check_words(file: TokenFile, words: Tokenizer) -> None:
    """ValueError where the ids of a file stand for other text than its own: they were made by another tokenizer.

    The first documents are looked at: their bytes must add up, where the tokenizer keeps texts as they are.
    """
    for number in range(min(8, len(file.lengths))):
        extra = surplus(file, number, words)
        if extra is None or (words.exact and extra not in (0, words.lead)):
            raise ValueError(f"document {file.documents[number]} was not encoded by this tokenizer, so its ids mean other text here")


def surplus(file: TokenFile, number: int, words: Tokenizer) -> int | None:
    """How many more bytes a document's ids stand for than its text has; None where the tokenizer lacks one of them.

    Of an exact tokenizer's own ids it is 0, or its `lead`.
    """
    widths, ids = words.token_bytes(), file.ids[file.offsets[number] : file.offsets[number + 1] - 1]  # the end of text is no byte of it
    return sum(widths[i] for i in ids.tolist()) - int(file.lengths[number]) if ids.max(initial=0) < len(widths) else None


def _kind(vocab: int) -> type[np.unsignedinteger]:
    return np.uint16 if vocab <= 1 << 16 else np.uint32


def _mapped(path: Path, kind: type[np.integer]) -> np.ndarray:
    # As a plain array: a slice of a memmap object costs ten times that of an array.
    return np.asarray(np.memmap(path, dtype=kind, mode="r"))


def windows(tokens: int, context: int) -> int:
    """How many rows of `context` tokens a file of so many holds. The last target of a row is the first token of the next."""
    return max(0, tokens - 1) // context


def sizes(folder: Path, split: str, context: int) -> dict[str, int]:
    """The same for each domain of a tokens artifact, whatever its vocabulary."""
    return {name: windows(int(_mapped(folder / name / f"{split}_offsets.bin", np.int64)[-1]), context) for name in domains(folder)}


class Windows:
    """Source of next-token rows: a token file cut into windows of `context` tokens, shuffled anew each epoch.

    A batch is that of `read`.
    """

    def __init__(self, file: TokenFile, context: int, batch: int, seed: int):
        self.file, self.context, self.batch, self.seed = file, context, batch, seed
        self.count = windows(len(file.ids), context)
        if self.count < 1:
            raise ValueError(f"{len(file.ids)} tokens do not fill one window of {context}: lower context or add documents")

    def __call__(self, step: int) -> Batch:
        return self.at(order.rows(step, self.batch, self.count, self.seed))

    def at(self, windows: np.ndarray) -> Batch:
        """The named windows as a batch, in order."""
        return read([(self.file, window * self.context) for window in windows.tolist()], self.context)

    def documents_at(self, step: int) -> list[str]:
        """The documents that step `step` reads: a lookup, no log."""
        windows = order.rows(step, self.batch, self.count, self.seed).tolist()
        return documents([(self.file, window * self.context) for window in windows], self.context)


def read(places: Sequence[tuple[TokenFile, int]], context: int) -> Batch:
    """Rows of `context` tokens, each from a place in a token file, as a batch.

    It holds tokens, targets, at (position within the document's part of the row), segment (number of that part) and token_weight,
    all (B, T): documents share a row and do not see each other.
    """
    ids = np.empty((len(places), context + 1), dtype=np.int64)
    first = np.zeros((len(places), context), dtype=np.int64)  # 1 where a document begins within the row
    for row, (file, begin) in enumerate(places):
        ids[row] = file.ids[begin : begin + context + 1]
        low, high = np.searchsorted(file.offsets, (begin + 1, begin + context))
        first[row, file.offsets[low:high] - begin] = 1
    at = np.arange(context)
    return {
        "tokens": torch.from_numpy(ids[:, :-1].copy()),
        "targets": torch.from_numpy(ids[:, 1:].copy()),
        "at": torch.from_numpy(at - np.maximum.accumulate(first * at, axis=1)),
        "segment": torch.from_numpy(first.cumsum(axis=1) + 1),
        "token_weight": torch.ones(len(places), context),
    }


def documents(places: Sequence[tuple[TokenFile, int]], context: int) -> list[str]:
    """The documents that `read` would read at these places, each once, in order."""
    found: dict[str, None] = {}
    for file, begin in places:
        found.update(dict.fromkeys(file.documents[file.document_at(begin) : file.document_at(begin + context) + 1]))
    return list(found)
