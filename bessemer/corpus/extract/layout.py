"""Blocks to plain text, with the layout that carries meaning: paragraphs apart by a blank line, list items behind a bullet,
table cells apart by " | ", code exactly as it was, definitions indented under their term."""

import re
from collections.abc import Iterable
from html import unescape

from bessemer.corpus.extract.blocks import LINE, Page

INDENT = 4
DEEPEST = 15  # levels of indentation
IGNORED = re.compile("[\ue000-\uf8ff\xad\ufeff]")  # icons (private use), soft hyphens, byte order marks: no text needs them


def lay_out(page: Page, kept: Iterable[int]) -> str:
    """The text of the kept blocks (indices in order)."""
    out: list[str] = []
    kept = list(kept)
    rows = _rows(page, kept)
    item, row, cell, tight = -1, -1, 0, False  # of the block before; tight: it was the first of its item
    for b in kept:
        at = page.place[b]
        lines = _lines(page, b)
        if not lines:
            continue
        if at.row in rows:
            # one line of a table: no block of it holds more than a cell
            joined = " ".join(line.strip() for line in lines)
            if at.row == row:
                out.append(" | " * max(1, at.cell - cell) + joined)
            else:
                near = rows.get(row) == rows[at.row]
                out.append(("\n" if near else "\n\n") + " " * (INDENT * min(at.definitions, DEEPEST)) + joined)
            row, cell, item, tight = at.row, at.cell, -1, False
            continue
        first = at.item >= 0 and at.item != item and page.first[at.item] <= b and not _inside(page, item, at.item)
        margin = INDENT * min(at.definitions, DEEPEST)
        if at.lists:
            hang = 2 * min(at.lists, DEEPEST) + (0 if first else len(at.bullet))
            lines = [" " * (margin + hang) + line.lstrip() if line else "" for line in lines]
            if first:
                lines[0] = " " * (margin + hang) + at.bullet + lines[0].lstrip()
        elif margin:
            lines = _shifted(lines, margin) if page.tag[page.within[b]] == "pre" else [" " * margin + line if line else "" for line in lines]
        out.append(("\n" if first and tight else "\n\n") + "\n".join(lines))
        item, row, tight = at.item, -1, first
    text = "".join(out).strip("\n")
    return text if text.isascii() else IGNORED.sub("", text)


def line_of(page: Page, b: int) -> str:
    """A block as one line."""
    return IGNORED.sub("", " ".join(" ".join(_lines(page, b)).split()))


def _inside(page: Page, inner: int, outer: int) -> bool:
    """Whether element `inner` lies in `outer`: then a block of `outer` goes on after it, and is not its first."""
    return inner > outer and page.first[inner] >= page.first[outer] and page.last[inner] <= page.last[outer]


def _rows(page: Page, kept: list[int]) -> dict[int, int]:
    """Rows of data tables and their tables: no cell of such a row has more than one block."""
    seen: dict[int, int] = {}  # row to its last cell, -1 once a cell has a second block
    for b in kept:
        at = page.place[b]
        if at.row >= 0:
            seen[at.row] = at.cell if seen.get(at.row, 0) not in (at.cell, -1) and page.tag[page.within[b]] != "pre" else -1
    return {row: page.parent[row] for row, cell in seen.items() if cell >= 0}


def _lines(page: Page, b: int) -> list[str]:
    """The lines of a block: as they are where preformatted, else apart only where the page forces a break."""
    text = page.text[b]
    if "&" in text:
        text = unescape(text)
    if page.tag[page.within[b]] == "pre":
        return _shifted([line.replace("\xa0", " ").rstrip() for line in text.split("\n")], 0)
    if LINE not in text:
        text = text.replace("\xa0", " ").strip()
        return [text] if text else []
    lines = [line.strip(" ").replace("\xa0", " ").rstrip() for line in text.split(LINE)]  # a run of no-break spaces is an indent
    return _shifted(lines, 0)


def _shifted(block: list[str], margin: int) -> list[str]:
    """Lines with their own indentation, moved right as a whole where it is less than `margin` spaces."""
    while block and not block[-1]:
        block.pop()
    while block and not block[0]:
        block.pop(0)
    own = min((len(line) - len(line.lstrip()) for line in block if line), default=0)
    return [" " * max(0, margin - own) + line if line else "" for line in block]
