"""Text preprocessing: the same words, in one spelling, without what is no text."""

import html
import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from bessemer.core.config import Whole, runtime
from bessemer.corpus import documents
from bessemer.corpus.documents import Row
from bessemer.corpus.each import Batch
from bessemer.corpus.filters.notices import notice

# Invisible, and no part of any spelling: zero-width space, direction marks, word joiner, byte order mark, soft hyphen.
INVISIBLE = re.compile("[\u200b\u200e\u200f\u2060\ufeff\u00ad\u202a-\u202e]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
BREAK = re.compile("\r\n?|[\x0b\x0c\u2028\u2029\x85]")
# What UTF-8 read as Latin-1 or Windows-1252 always holds: the first byte of a character and the next one.
MOJIBAKE = re.compile("[Â-ô][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# The function words of English: what search engines and word counts leave out.
STOP_WORDS = (
    "a about above after again all also am an and any are as at be because been before being below between both but by can could did do does "
    "doing down during each few for from further had has have having he her here hers him his how i if in into is it its itself just me more most "
    "my no nor not now of off on once only or other our ours out over own same she should so some such than that the their theirs them then there "
    "these they this those through to too under until up very was we were what when where which while who whom why will with would you your yours"
)
STOP_WORD = re.compile(rf"\b(?:{'|'.join(STOP_WORDS.split())})\b", re.IGNORECASE)
APOSTROPHE, MARK, SPACES = re.compile(r"(?<=\w)['’](?=\w)"), re.compile(r"[^\w\s]|_"), re.compile(r"[^\S\n]+")


@dataclass(frozen=True)
class CleanConfig:
    """What is done to the text besides Unicode NFC, plain line ends and no control characters."""

    mojibake: bool = True  # repair UTF-8 that was read as another encoding, such as â€™ for an apostrophe
    entities: bool = True  # resolve left-over HTML entities, in texts without a < : text about HTML keeps them
    notices: bool = False  # remove lines that are cookie, JavaScript, legal, sharing or "read more" notices (English)
    stop_words: bool = False  # remove English function words; for search and word counts, wrong for training: a model learns grammar from them
    punctuation: bool = False  # remove punctuation and symbols; wrong for training for the same reason
    workers: Whole = runtime(0)  # processes; 0: one per core

    version: ClassVar[int] = 3
    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)


def normalised(text: str) -> str:
    """Composed characters (NFC), plain line ends, no control or invisible characters, no trailing space. Spelling is kept."""
    text = CONTROL.sub("", BREAK.sub("\n", text))
    if not text.isascii():
        text = unicodedata.normalize("NFC", INVISIBLE.sub("", text)).replace("\xa0", " ")
    return "\n".join(map(str.rstrip, text.split("\n"))).strip("\n")


def repaired(text: str) -> str:
    """Mojibake undone by ftfy (Speer 2019), in the lines that may hold some; the test for them costs little."""
    if text.isascii() or not MOJIBAKE.search(text):
        return text
    import ftfy

    return "\n".join(ftfy.fix_encoding(line) if MOJIBAKE.search(line) else line for line in text.split("\n"))


def unescaped(text: str) -> str:
    """HTML entities resolved where the text holds no markup that they could stand for."""
    return ENTITY.sub(lambda found: html.unescape(found[0]), text) if "&" in text and "<" not in text else text


def bare(text: str, cfg: CleanConfig) -> str:
    """Without function words or without marks, words apart by one space."""
    if cfg.stop_words:
        text = STOP_WORD.sub("", text)
    if cfg.punctuation:
        text = MARK.sub(" ", APOSTROPHE.sub("", text))
    return "\n".join(line.strip() for line in SPACES.sub(" ", text).split("\n"))


def prepare(cfg: CleanConfig) -> Batch:
    """What the stage does to a batch. Adds `mojibake` (whether some was repaired) and `notice_lines` (how many were removed)."""

    def clean(rows: list[Row]) -> list[Row]:
        for row in rows:
            text = repaired(row["text"]) if cfg.mojibake else row["text"]
            row["mojibake"] = text != row["text"]
            text = normalised(unescaped(text) if cfg.entities else text)
            lines = text.split("\n")
            kept = [line for line in lines if not notice(line)] if cfg.notices else lines
            row["notice_lines"] = len(lines) - len(kept)
            if len(kept) < len(lines):
                text = "\n".join(kept).strip("\n")
            if cfg.stop_words or cfg.punctuation:
                text = bare(text, cfg)
            if text.strip():
                row["text"] = text
            else:
                row |= {"reason": "empty", "detail": "no text is left"}
        return rows

    return clean
