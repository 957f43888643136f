"""Train a byte-level BPE tokenizer on documents."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bessemer.core import log
from bessemer.core.config import Count
from bessemer.corpus import documents as store
from bessemer.tokenizer import bpe
from bessemer.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenizerConfig:
    vocab: Count = 4096  # entries, the 256 bytes and the special tokens included
    max_bytes: Count = 200_000_000  # text to learn from; more costs memory and changes little

    def __post_init__(self) -> None:
        if self.vocab < bpe.SMALLEST:
            raise ValueError(f"vocab {self.vocab} is too small: 256 bytes and the special tokens need {bpe.SMALLEST}")


def tokenizer(documents: tuple[Path, ...], *, out: Path, cfg: TokenizerConfig) -> dict[str, float]:
    """Learn from all the inputs at once: a document of each in turn, until `max_bytes` are read."""
    if not documents:
        raise ValueError("documents is empty: name at least one folder of documents")
    read = {"bytes": 0, "documents": 0}

    def texts() -> Iterator[str]:
        for text in log.track(in_turn(documents), "tokenizer", sum(map(store.count, documents))):
            if read["bytes"] >= cfg.max_bytes:
                return
            read["bytes"] += len(text.encode())
            read["documents"] += 1
            yield text

    backend = bpe.train(texts(), cfg.vocab)
    bpe.save(backend, out)
    trained = Tokenizer.load(out)
    sample = list(itertools.islice(in_turn(documents), 200))
    tokens = sum(map(len, trained.encode_batch(sample)))
    return {"vocab": trained.vocab, **read, "bytes_per_token": round(sum(len(text.encode()) for text in sample) / tokens, 4)}


def in_turn(folders: tuple[Path, ...]) -> Iterator[str]:
    """The texts of several folders of documents, one of each in turn for as long as it has any."""
    for texts in itertools.zip_longest(*map(store.texts, folders)):
        yield from (text for text in texts if text is not None)
