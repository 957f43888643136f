"""Encode documents into token files, a folder a domain, some whole documents held out for validation."""

import contextlib
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bessemer.core import artifact, log
from bessemer.core.config import Fraction
from bessemer.corpus import documents as store
from bessemer.corpus.balance import WEIGHT, weight_of
from bessemer.data import tokens as token_file
from bessemer.tokenizer.tokenizer import Tokenizer

MOST_DOMAINS = 64  # each keeps ten files open
DOMAIN = re.compile(r"\w[^/\\\0-\x1f]{0,99}")  # it names a folder


@dataclass(frozen=True)
class TokensConfig:
    held_out: Fraction = 0.04  # share of documents kept for validation, chosen by document id
    domain: str = ""  # column whose values sort documents into domains; left out: each input is a domain, called by its artifact's name

    version: ClassVar[int] = 4


def tokens(documents: tuple[Path, ...], tokenizer: Path, *, out: Path, cfg: TokensConfig) -> dict[str, float]:
    """Write out/DOMAIN/train.bin and its like. Memory: one batch of documents.

    A document with a `weight` of 2.3 is written two times, or three with a probability of 0.3, decided by its id; one of 0 is dropped.
    Copies come in rounds, all first ones before any second, so that they stand far apart. Held out is each at most once.
    """
    encoder = Tokenizer.load(tokenizer)
    if not documents:
        raise ValueError("documents is empty: name at least one folder of documents")
    names = artifact.names_of(documents, "inputs")
    with contextlib.ExitStack() as stack:
        writers: dict[str, dict[str, token_file.Writer]] = {}

        def writer(domain: Any, split: str) -> token_file.Writer:
            if domain not in writers:
                _check(domain, cfg.domain, len(writers))
                made = {name: token_file.Writer(out / domain, name, encoder.vocab, encoder.end_of_text) for name in token_file.SPLITS}
                writers[domain] = {name: stack.enter_context(one) for name, one in made.items()}
            return writers[domain][split]

        for name in names if not cfg.domain else ():  # a domain without a document is one all the same
            writer(name, "train")
        copy, left = 0, dict(zip(names, documents, strict=True))
        while left:
            again = set()
            for name, folder in left.items():
                for rows in log.track(_batches(folder, cfg), f"tokens {name}" + f" again ({copy})" * (copy > 0)):
                    wanted = [row for row in rows if copies(row) > copy]
                    for row, ids in zip(wanted, encoder.encode_batch([row["text"] for row in wanted]), strict=True):
                        split = "val" if _share(row["id"]) < cfg.held_out else "train"
                        if split == "train" or copy == 0:
                            writer(row[cfg.domain] if cfg.domain else name, split).add(row["id"], len(row["text"].encode()), ids)
                    if any(copies(row) > copy + 1 for row in wanted):
                        again.add(name)
            copy, left = copy + 1, {name: folder for name, folder in left.items() if name in again}
    return _numbers(writers, cfg)


def copies(row: store.Row) -> int:
    """How often a document is written: the whole part of its weight, and once more with the probability of the rest."""
    weight = weight_of(row)
    return math.floor(weight) + (_share(f"{row['id']} {math.floor(weight)}") < weight % 1)


def _share(word: str) -> float:
    """A number from 0 up to 1, decided by the word alone: a document stays on its side when the corpus around it changes."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) / 2**32


def _batches(folder: Path, cfg: TokensConfig) -> Iterator[list[store.Row]]:
    columns = ["id", "text", *[cfg.domain] * bool(cfg.domain)]
    for shard in store.shards(folder, columns):
        yield from store.batches(shard, columns + [WEIGHT] * (WEIGHT in store.schema(shard).names))


def _check(domain: Any, column: str, known: int) -> None:
    """ValueError where this cannot be the name of one more domain."""
    place = f"column {column}" if column else "documents"
    if not isinstance(domain, str) or not DOMAIN.fullmatch(domain) or domain == artifact.RUN:
        raise ValueError(f"{place}: {domain!r} cannot be a domain's name: it is text that begins with a letter or digit, without / or \\")
    if known == MOST_DOMAINS:
        raise ValueError(f"{place} has more than {MOST_DOMAINS} values; a domain is a part of the corpus that is mixed on its own")


def _numbers(writers: dict[str, dict[str, token_file.Writer]], cfg: TokensConfig) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for split in token_file.SPLITS:
        for what in ("documents", "tokens", "bytes"):
            found = {domain: getattr(both[split], what) for domain, both in sorted(writers.items())}
            numbers[f"{split}_{what}"] = sum(found.values())
            numbers |= {f"{domain}: {split}_{what}": n for domain, n in found.items()} if len(found) > 1 else {}
    if not numbers["train_tokens"]:
        raise ValueError(f"there is no training document: held_out is {cfg.held_out}")
    return numbers
