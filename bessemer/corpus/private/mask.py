"""Find private data in documents and put something in its place.

E-mail and IP addresses as FineWeb does (Penedo et al. 2024, section 3.6), and also telephone numbers, payment cards, bank accounts,
US social security numbers, keys and passwords. Names and postal addresses need a model and are not looked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyarrow as pa

from bessemer.core.config import Whole, runtime, unknown
from bessemer.corpus import documents
from bessemer.corpus.documents import Row
from bessemer.corpus.each import Batch
from bessemer.corpus.private.addresses import emails, ips
from bessemer.corpus.private.keys import keys
from bessemer.corpus.private.numbers import cards, ibans, ssns, windows
from bessemer.corpus.private.phones import phones

# In order of precedence: what more than one of them finds is the first one's.
RANKED = ("key", "email", "iban", "ip", "card", "ssn", "phone")
IN_NUMBERS = {"iban": ibans, "card": cards, "ssn": ssns, "phone": phones}
KINDS = tuple(sorted(RANKED))
MASKED = pa.struct([(kind, pa.int32()) for kind in KINDS])
# What cannot be anyone's: reserved for examples by RFC 2606, RFC 5737, the North American numbering plan and the card networks.
PLAUSIBLE = {
    "card": "4111 1111 1111 1111",
    "email": "email@example.com",
    "iban": "GB00 BANK 0000 0000 0000 00",
    "ip": "192.0.2.1",
    "key": "0123456789abcdef",
    "phone": "+1 202-555-0100",
    "ssn": "000-00-0000",
}


@dataclass(frozen=True)
class MaskConfig:
    """What is masked and by what."""

    kinds: tuple[str, ...] = KINDS  # what is looked for
    style: Literal["placeholder", "plausible"] = "placeholder"  # <EMAIL>, or a fixed address that cannot exist
    keep_examples: bool = False  # leave addresses of example.com and its like (RFC 2606), which documentation is full of
    workers: Whole = runtime(0)  # processes; 0: one per core

    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ValueError(unknown("kinds", kind, list(KINDS)))


def masker(cfg: MaskConfig) -> Batch:
    """Masks title and text of each document and counts, by kind, in `masked` what was found."""
    put = {kind: PLAUSIBLE[kind] if cfg.style == "plausible" else f"<{kind.upper()}>" for kind in cfg.kinds}

    def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            counts = dict.fromkeys(KINDS, 0)
            for name in ("title", "text"):
                if row.get(name):
                    row[name] = _replaced(row[name], find(row[name], cfg.kinds, cfg.keep_examples), put, counts)
            row["masked"] = counts
        return rows

    return work


def find(text: str, kinds: Iterable[str] = KINDS, keep_examples: bool = False) -> list[tuple[int, int, str]]:
    """Where private data stands: (start, end, kind) in order, none overlapping. Time is linear in the text."""
    where = windows(text)
    spans: dict[str, Iterable[tuple[int, int]]] = {
        "key": keys(text),
        "email": emails(text, not keep_examples),
        "ip": ips(text),
        **{kind: finder(text, where) for kind, finder in IN_NUMBERS.items()},
    }
    found = [(start, end, rank) for rank, kind in enumerate(RANKED) if kind in kinds for start, end in spans[kind]]
    kept: list[tuple[int, int, int]] = []
    for span in sorted(found):
        if kept and span[0] < kept[-1][1]:
            kept[-1] = min(kept[-1], span, key=lambda one: one[2])
        else:
            kept.append(span)
    return [(start, end, RANKED[rank]) for start, end, rank in kept]


def _replaced(text: str, spans: list[tuple[int, int, str]], put: dict[str, str], counts: dict[str, int]) -> str:
    parts, done = [], 0
    for start, end, kind in spans:
        parts += [text[done:start], put[kind]]
        counts[kind] += 1
        done = end
    return "".join([*parts, text[done:]])
