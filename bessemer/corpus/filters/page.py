"""A document as the filters see it: its text, and what several rules need, each worked out when first asked for."""

from functools import cached_property

import numpy as np

from bessemer.corpus.filters.table import Table, Words
from bessemer.corpus.filters.words import PLAIN


class Page:
    """`text` may be edited by a filter (`keep`); what was worked out from it is then worked out anew."""

    def __init__(self, text: str, table: Table, title: str = ""):
        self.text, self.table, self.title = text, table, title
        self.lines_removed = 0

    @cached_property
    def lower(self) -> str:
        return self.text.lower()

    @cached_property
    def words(self) -> Words:
        return self.table.read(self.text.split())

    @cached_property
    def plain(self) -> int:
        """Words that are not only marks."""
        return int(np.count_nonzero(self.words.bits & PLAIN))

    def keep(self, lines: list[str], removed: int) -> None:
        """Keep only these lines; `removed` others with text are gone."""
        self.text = "\n".join(lines)
        self.lines_removed += removed
        for name in ("lower", "words", "plain"):
            self.__dict__.pop(name, None)
