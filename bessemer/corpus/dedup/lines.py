"""Lines and paragraphs that many documents share: cookie notices, menus, licences. The first document keeps them."""

import re
from collections.abc import Container, Mapping, Sequence

import xxhash

BLANK = re.compile(r"\n\s*\n")
UNITS = {"paragraph": "\n\n", "line": "\n"}  # what each is joined by; in the order of cutting


def split(text: str, unit: str) -> list[str]:
    return text.split("\n") if unit == "line" else BLANK.split(text)


def key(bare: str, unit: str) -> int:
    """The hash of a line or paragraph. A line is no paragraph of one line, so theirs differ."""
    return xxhash.xxh3_64_intdigest(bare.encode("utf-8", "surrogatepass"), len(unit))


def hashes(text: str, units: Sequence[str], length: int) -> set[int]:
    """The hashes of a text's distinct lines and paragraphs of at least `length` characters, white space around them not counted."""
    return {key(bare, unit) for unit in units for piece in split(text, unit) if len(piece) >= length and len(bare := piece.strip()) >= length}


def said(text: str, units: Sequence[str], numbers: Container[int]) -> dict[int, str]:
    """The lines and paragraphs of a text whose hashes are among `numbers`."""
    return {number: piece for unit in units for piece in split(text, unit) if (number := key(piece.strip(), unit)) in numbers}


def cut(text: str, units: Sequence[str], first: Mapping[int, int], document: int) -> tuple[str, list[str]]:
    """(text without the shared pieces, the pieces taken out): those whose `first` document is another than `document`.

    A text without any comes back as it was. The first document of a line keeps it even where paragraphs are cut: whoever
    had that paragraph before had the line before.
    """
    removed: list[str] = []
    for unit in units:
        kept: list[str] = []
        before = len(removed)
        for piece in split(text, unit):
            (kept if first.get(key(piece.strip(), unit), document) == document else removed).append(piece)
        if len(removed) > before:
            text = UNITS[unit].join(kept).strip("\n")
    return text, removed
