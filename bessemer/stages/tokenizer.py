"""Train a byte-level BPE tokenizer on documents."""

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


def tokenizer(documents: Path, *, out: Path, cfg: TokenizerConfig) -> dict[str, float]:
    read = {"bytes": 0, "documents": 0}

    def texts() -> Iterator[str]:
        for row in log.track(store.read(documents, ["text"]), "tokenizer", store.count(documents)):
            if read["bytes"] >= cfg.max_bytes:
                return
            read["bytes"] += len(row["text"].encode())
            read["documents"] += 1
            yield row["text"]

    backend = bpe.train(texts(), cfg.vocab)
    bpe.save(backend, out)
    trained = Tokenizer.load(out)
    sample = [row["text"] for row, _ in zip(store.read(documents, ["text"]), range(200), strict=False)]
    tokens = sum(map(len, trained.encode_batch(sample)))
    return {"vocab": trained.vocab, **read, "bytes_per_token": round(sum(len(text.encode()) for text in sample) / tokens, 4)}
