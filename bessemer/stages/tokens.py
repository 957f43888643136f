"""Encode documents into token files, some whole documents held out for validation."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bessemer.core import log
from bessemer.core.config import Fraction
from bessemer.corpus import documents as store
from bessemer.data import tokens as token_file
from bessemer.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokensConfig:
    held_out: Fraction = 0.04  # share of documents kept for validation, chosen by document id

    version: ClassVar[int] = 2


def tokens(documents: Path, tokenizer: Path, *, out: Path, cfg: TokensConfig) -> dict[str, float]:
    encoder = Tokenizer.load(tokenizer)
    counts: dict[str, float] = {}
    for split in token_file.SPLITS:
        size = 0

        def encoded(split: str = split) -> Iterator[tuple[str, int, list[int]]]:
            nonlocal size
            rows = (row for row in store.read(documents, ["id", "text"]) if (_held_out(row["id"], cfg.held_out) == (split == "val")))
            while batch := list(itertools.islice(rows, 256)):
                for row, ids in zip(batch, encoder.encode_batch([row["text"] for row in batch]), strict=True):
                    size += len(row["text"].encode())
                    counts[f"{split}_documents"] = counts.get(f"{split}_documents", 0) + 1
                    yield row["id"], len(row["text"].encode()), ids

        counts[f"{split}_tokens"] = token_file.write(out, split, log.track(encoded(), split), encoder.vocab, encoder.end_of_text)
        counts[f"{split}_bytes"] = size
    if not counts["train_tokens"]:
        raise ValueError(f"{documents} gave no training document: held_out is {cfg.held_out}")
    return counts


def _held_out(document: str, share: float) -> bool:
    """Decided by the id alone, so a document stays on its side when the corpus around it changes."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:4]) < share * 2**32
