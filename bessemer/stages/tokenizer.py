"""Train a tokenizer on documents: byte-level BPE, WordPiece, or unigram."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer as Backend

from bessemer.core import log
from bessemer.core.config import Count
from bessemer.corpus import documents as store
from bessemer.tokenizer import bpe, files, special, split, unigram, wordpiece
from bessemer.tokenizer.tokenizer import Tokenizer

SMALLEST = {"bpe": bpe.smallest, "wordpiece": wordpiece.smallest, "unigram": unigram.smallest}


@dataclass(frozen=True)
class TokenizerConfig:
    vocab: Count = 4096  # entries, the 256 bytes and the special tokens included
    max_bytes: Count = 200_000_000  # text to learn from; more costs memory and changes little
    kind: Literal["bpe", "wordpiece", "unigram"] = "bpe"
    split: Literal["", "gpt-2", "llama-3", "qwen2", "smollm"] = ""  # how words are cut, by its name in GGUF; left out: llama-3; unigram has none
    digits: Literal["", "single", "group3", "free"] = ""  # digits in one token: one, up to three, any number; left out: what the split does
    masks: bool = False  # add [PAD] [CLS] [SEP] [MASK], which encoders need
    sentinels: int = 0  # add <extra_id_0> and so many more, which span corruption needs: 100 in T5
    special: tuple[str, ...] = ()  # further special tokens of your own

    def __post_init__(self) -> None:
        if self.sentinels < 0:
            raise ValueError(f"sentinels {self.sentinels} is negative")
        least = SMALLEST[self.kind](self.tokens)
        if self.vocab < least:
            each = "bytes, each in two forms," if self.kind == "wordpiece" else "bytes"
            raise ValueError(f"vocab {self.vocab} is too small: 256 {each} and the special tokens need {least}")
        if self.kind != "unigram":
            split.check_digits(self.split or "llama-3", self.digits)
        elif self.split:
            raise ValueError(f'split = "{self.split}" contradicts kind = "unigram", which learns from text that is not cut into words')
        elif self.digits == "group3":
            raise ValueError('digits = "group3" contradicts kind = "unigram": choose single or free')

    @property
    def tokens(self) -> list[str]:
        return special.tokens(self.masks, self.sentinels, self.special)


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

    files.save(train(texts(), cfg), out)
    trained = Tokenizer.load(out)
    sample = list(itertools.islice(in_turn(documents), 200))
    tokens = sum(map(len, trained.encode_batch(sample)))
    return {"vocab": trained.vocab, **read, "bytes_per_token": round(sum(len(text.encode()) for text in sample) / tokens, 4)}


def train(texts: Iterable[str], cfg: TokenizerConfig) -> Backend:
    """Learn a tokenizer of the kind that `cfg` asks for."""
    if cfg.kind == "unigram":
        return unigram.train(texts, cfg.vocab, "single" if cfg.digits == "single" else "free", cfg.tokens)
    return (bpe if cfg.kind == "bpe" else wordpiece).train(texts, cfg.vocab, cfg.split or "llama-3", cfg.tokens)


def in_turn(folders: tuple[Path, ...]) -> Iterator[str]:
    """The texts of several folders of documents, one of each in turn for as long as it has any."""
    for texts in itertools.zip_longest(*map(store.texts, folders)):
        yield from (text for text in texts if text is not None)
