"""The texts that tokenizers are measured on, and what a word is."""

import functools
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bessemer.corpus import documents

# Written without spaces: Thai, Lao, Burmese, Khmer, kana, Han.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
UNSAID = "und"  # ISO 639: undetermined


@dataclass(frozen=True)
class Text:
    """One document, and what was counted in it before any tokenizer saw it."""

    text: str
    domain: str
    language: str | None  # None: its input does not say
    said: str | None  # what it is a translation of
    bytes: int
    words: int


def words(text: str) -> list[str]:
    """The words of a text: a run of letters, digits, marks and underscores; where a script is written without spaces (Thai, Lao, Burmese,
    Khmer, kana, Han) each letter with its marks. `don't` is two words, and 世界 too."""
    return _word().findall(text)


@functools.cache
def _word() -> re.Pattern[str]:
    # Python's \w lacks the combining marks that Indic vowels are, and the joiners (U+200C, U+200D) that stand inside words.
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c).startswith("M")) + "\u200c\u200d"
    return re.compile(rf"(?=[{UNSPACED}])\w[{marks}]*|[^\W{UNSPACED}](?:[^\W{UNSPACED}]|[{marks}])*")


def sample(folders: Sequence[Path], names: Sequence[str], max_bytes: int, domain: str, language: str, translation: str) -> list[Text]:
    """About `max_bytes` of each folder of documents, in whole documents at even distances. Texts without any character are left out.

    `domain`, `language` and `translation` are columns. A folder without `domain` or `language` is a domain called by its name, and of no
    language. ValueError where no folder has the column `translation`, or where nothing is left.
    """
    found = [text for folder, name in zip(folders, names, strict=True) for text in _of(folder, name, max_bytes, (domain, language, translation))]
    if not found:
        raise ValueError(f"{', '.join(map(str, folders))}: every document is empty, so there is nothing to measure on")
    if translation and all(text.said is None for text in found):
        raise ValueError(f"no document has a column {translation}, which should say what it is a translation of")
    return found


def _of(folder: Path, name: str, max_bytes: int, columns: tuple[str, str, str]) -> Iterator[Text]:
    there = documents.schema(documents.shards(folder)[0]).names
    share = min(1.0, max_bytes / max(1, documents.size(folder)))
    seen = taken = 0
    for row in documents.read(folder, ["text", *dict.fromkeys(column for column in columns if column in there)]):
        text = row["text"]
        size = len(text.encode("utf-8", "replace"))
        if text and taken <= seen * share:
            taken += size
            domain, language, said = (row.get(column) for column in columns)
            yield Text(text, name if domain is None else str(domain), language, None if said is None else str(said), size, len(words(text)))
        seen += size
