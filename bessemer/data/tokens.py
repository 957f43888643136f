"""Token files: all documents of a split one after another, each followed by the end-of-text token, and where each begins.

train.bin           the ids, uint16 or uint32, whichever the vocabulary fits
train_offsets.npy   (documents + 1,) int64: document i is ids[offsets[i]:offsets[i + 1]]
train_bytes.npy     (documents,) int64: UTF-8 bytes of each document's text, for bits per byte
train_documents.txt document ids, one a line
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bessemer.data import order

Batch = dict[str, torch.Tensor]
SPLITS = ("train", "val")


@dataclass(frozen=True)
class TokenFile:
    """One split of a tokens artifact, memory-mapped."""

    ids: np.ndarray  # (tokens,)
    offsets: np.ndarray  # (documents + 1,)
    lengths: np.ndarray  # (documents,) bytes of text
    documents: Sequence[str]

    def document_at(self, token: int) -> int:
        """The number of the document that holds a token position."""
        return int(np.searchsorted(self.offsets, token, side="right")) - 1


def write(folder: Path, split: str, documents: Iterable[tuple[str, int, list[int]]], vocab: int, end_of_text: int) -> int:
    """Write (id, bytes, ids) documents as one split, streaming. Returns how many tokens it holds."""
    dtype = np.uint16 if vocab <= 1 << 16 else np.uint32
    names, lengths, offsets = [], [], [0]
    with (folder / f"{split}.bin").open("wb") as file:
        for name, length, ids in documents:
            file.write(np.asarray([*ids, end_of_text], dtype=dtype).tobytes())
            names.append(name)
            lengths.append(length)
            offsets.append(offsets[-1] + len(ids) + 1)
    np.save(folder / f"{split}_offsets.npy", np.asarray(offsets, dtype=np.int64))
    np.save(folder / f"{split}_bytes.npy", np.asarray(lengths, dtype=np.int64))
    (folder / f"{split}_documents.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return offsets[-1]


def load(folder: Path, split: str, vocab: int) -> TokenFile:
    """Open a split. `vocab` decides the width of an id, as it did when the file was written."""
    file = folder / f"{split}.bin"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no {split}.bin: not a tokens artifact")
    if file.stat().st_size == 0:
        raise ValueError(f"{file} is empty: no document went to this split")
    ids = np.memmap(file, dtype=np.uint16 if vocab <= 1 << 16 else np.uint32, mode="r")
    offsets, lengths = np.load(folder / f"{split}_offsets.npy"), np.load(folder / f"{split}_bytes.npy")
    if offsets[-1] != len(ids):
        raise ValueError(f"{file} holds {len(ids)} tokens of {offsets[-1]}: it is cut off, or belongs to another vocabulary than {vocab}")
    return TokenFile(ids, offsets, lengths, (folder / f"{split}_documents.txt").read_text(encoding="utf-8").split("\n")[:-1])


class Windows:
    """Source of next-token rows: the token file cut into windows of `context` tokens, shuffled anew each epoch.

    A batch holds tokens, targets, at (position within the document's part of the window), segment (number of that part) and
    token_weight, all (B, T): documents share a window and do not see each other.
    """

    def __init__(self, file: TokenFile, context: int, batch: int, seed: int):
        self.file, self.context, self.batch, self.seed = file, context, batch, seed
        self.count = (len(file.ids) - 1) // context
        if self.count < 1:
            raise ValueError(f"{len(file.ids)} tokens do not fill one window of {context}: lower context or add documents")

    def __call__(self, step: int) -> Batch:
        return self.at(order.rows(step, self.batch, self.count, self.seed))

    def at(self, windows: np.ndarray) -> Batch:
        """The named windows as a batch, in order."""
        places = windows[:, None] * self.context + np.arange(self.context + 1)  # (B, T + 1)
        ids = torch.from_numpy(self.file.ids[places].astype(np.int64))
        begins = places[:, :-1]
        document = np.searchsorted(self.file.offsets, begins, side="right")
        at = begins - np.maximum(self.file.offsets[document - 1], begins[:, :1])
        return {
            "tokens": ids[:, :-1].contiguous(),
            "targets": ids[:, 1:].contiguous(),
            "at": torch.from_numpy(at),
            "segment": torch.from_numpy(document - document[:, :1] + 1),
            "token_weight": torch.ones(len(windows), self.context),
        }

    def documents_at(self, step: int) -> list[str]:
        """The documents that step `step` reads: a lookup, no log."""
        found: dict[str, None] = {}
        for window in order.rows(step, self.batch, self.count, self.seed):
            first = self.file.document_at(window * self.context)
            last = self.file.document_at(window * self.context + self.context)
            found.update(dict.fromkeys(self.file.documents[first : last + 1]))
        return list(found)
