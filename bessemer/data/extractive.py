"""Questions whose answer is a piece of a text (SQuAD: Rajpurkar et al. 2016): examples for LabelledRows, and answers from scores.

A long text is read in windows that overlap (Devlin et al. 2019, section 4.2). A window without the whole answer, and a question without
one (Rajpurkar et al. 2018), have the first place, [CLS], for their answer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bessemer.data.labelled import Example, encoded, framed
from bessemer.tokenizer.tokenizer import Tokenizer


class Window(NamedTuple):
    """Where an example's text stands."""

    row: int  # its question, by the number of the row
    begin: int  # place of the text's first token in the example
    spans: np.ndarray  # (tokens, 2) characters of the text that each token spans


def wrong(row: dict[str, Any]) -> str:
    """What keeps {question, context, answer, start} from being a row; without an answer, answer is "" and start may be missing."""
    for name in ("question", "context", "answer"):
        if not isinstance(row.get(name), str) or (name != "answer" and not row[name].strip()):
            return f"{name} must be a text" + ("" if name == "answer" else " that is not empty")
    if not row["answer"]:
        return ""
    start = row.get("start")
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        return "start must be the number of the context's character at which the answer begins, from 0"
    if (found := row["context"][start : start + len(row["answer"])]) != row["answer"]:
        return f"at character {start} the context says {found[:40]!r}, not {row['answer'][:40]!r}: start counts characters, not bytes"
    return ""


def windows(
    rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, context: int, stride: int = 128, question: int = 64
) -> tuple[list[Example], list[Window]]:
    """Examples [CLS] question [SEP] window [SEP], and where each one's text stands.

    A window begins `stride` tokens after the one before it; of a question the first `question` tokens are read. ValueError where no
    room is left for a text, or for the one of the next window.
    """
    tokenizer.need("cls")
    examples: list[Example] = []
    places: list[Window] = []
    asked = tokenizer.encode_batch([row["question"] for row in rows])
    for number, (row, ids, (text, spans)) in enumerate(zip(rows, asked, encoded([row["context"] for row in rows], tokenizer), strict=True)):
        begin = len(framed([ids[:question]], tokenizer)[0])
        room = context - begin - 1
        if room < 1 or stride > room:
            raise ValueError(
                f"row {number + 1}: of context {context} its question leaves {max(room, 0)} tokens for the text, and windows are stride = {stride} "
                "apart: raise context, or lower stride or question"
            )
        low, high = _tokens(spans, row["start"], row["start"] + len(row["answer"])) if row["answer"] else (-1, -1)
        for at in range(0, max(len(text) - room, 0) + stride, stride) if len(text) > room else (0,):
            framed_ids, types = framed([ids[:question], text[at : at + room]], tokenizer)
            inside = at <= low <= high < at + room
            first, last = (begin + low - at, begin + high - at) if inside else (0, 0)
            examples.append(Example(framed_ids, types, [0], [first], [last]))
            places.append(Window(number, begin, spans[at : at + room]))
    return examples, places


def _tokens(spans: np.ndarray, begin: int, end: int) -> tuple[int, int]:
    """The first and the last token that hold a character of [begin, end)."""
    return int(np.searchsorted(spans[:, 1], begin, side="right")), int(np.searchsorted(spans[:, 0], end, side="left")) - 1


def answers(rows: Sequence[dict[str, Any]], places: Sequence[Window], scores: Sequence[np.ndarray], longest: int = 30) -> list[str]:
    """The best answer to each question, "" where [CLS] scores higher than any piece of text.

    scores: of each window the start and end scores of its example's tokens, (2, tokens). An answer has at most `longest` tokens.
    """
    best = [(-np.inf, "")] * len(rows)
    none = [np.inf] * len(rows)  # the lowest score of [CLS] over a question's windows
    for window, (start, end) in zip(places, scores, strict=True):
        none[window.row] = min(none[window.row], float(start[0] + end[0]))
        text = slice(window.begin, window.begin + len(window.spans))
        both = start[text, None] + end[None, text]
        both = np.where(_allowed(len(both), longest), both, -np.inf)
        first, last = np.unravel_index(int(both.argmax()), both.shape)
        if both[first, last] > best[window.row][0]:
            piece = rows[window.row]["context"][window.spans[first, 0] : window.spans[last, 1]]
            best[window.row] = (float(both[first, last]), piece.strip())
    return [piece if score > nothing else "" for (score, piece), nothing in zip(best, none, strict=True)]


def _allowed(tokens: int, longest: int) -> np.ndarray:
    """(tokens, tokens) bool: an answer from the row's token to the column's ends after it begins, and is not too long."""
    length = np.arange(tokens) - np.arange(tokens)[:, None]
    return (length >= 0) & (length < longest)
