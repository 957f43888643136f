"""Tokens counted in texts: in all, by domain and by language, each number with its interval."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.core import log
from bessemer.eval import stats
from bessemer.eval.tokenization.texts import UNSAID, Text
from bessemer.tokenizer import pieces
from bessemer.tokenizer.tokenizer import Tokenizer

BATCH = 256  # texts encoded at once
DIGITS = 5  # decimals kept
ALPHA = 2.5  # order of Rényi's entropy: of those tried by Zouhar et al. 2023 it tells best how well a translation model will do
ALL = "all"
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """What one tokenizer made of n texts."""

    tokens: Ints  # (n,)
    unknown: Ints  # (n,) tokens that stand for text the tokenizer cannot write
    bytes: Ints  # (n,) tokens that are no whole characters
    exact: NDArray[np.bool_]  # (n,) whether decoding gave the text back, character for character
    used: Ints  # (V,) how often each entry occurred


def count(tokenizer: Tokenizer, texts: Sequence[Text], label: str = "tokens") -> Counts:
    """Encode and decode every text. ValueError where not a single token comes of them."""
    unknown, partial = unknown_tokens(tokenizer), byte_tokens(tokenizer)
    rows, used = [], np.zeros(tokenizer.vocab, np.int64)
    for begin in log.track(range(0, len(texts), BATCH), label):
        batch = [text.text for text in texts[begin : begin + BATCH]]
        for text, encoded in zip(batch, tokenizer.encode_batch(batch), strict=True):
            ids = np.array(encoded, np.int64)
            np.add.at(used, ids, 1)
            rows.append((len(ids), unknown[ids].sum(), partial[ids].sum(), tokenizer.decode(encoded, skip_special=False) == text))
    tokens, unknowns, parts, exact = np.array(rows, np.int64).T
    if not tokens.any():
        raise ValueError(f"{label}: this tokenizer makes no token of these texts")
    return Counts(tokens, unknowns, parts, exact.astype(bool), used)


def unknown_tokens(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """(V,) which entry the model puts where it has no other: at most one, whatever it is called."""
    model = tokenizer.layout["model"]
    name, i = model.get("unk_token"), model.get("unk_id")
    if name is not None:
        i = tokenizer.backend.token_to_id(name)
    found = np.zeros(tokenizer.vocab, bool)
    if i is not None:
        found[i] = True
    return found


def byte_tokens(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """(V,) which entries are no whole characters: those of byte fallback, and those that begin or end inside a character."""
    fallback = bool(tokenizer.layout["model"].get("byte_fallback"))
    found = np.zeros(tokenizer.vocab, bool)
    for i, text in enumerate(pieces.texts(tokenizer.layout)):
        try:
            text.decode()
            found[i] = fallback and pieces.BYTE.fullmatch(tokenizer.backend.id_to_token(i) or "") is not None
        except UnicodeDecodeError:
            found[i] = True
    return found


def summary(tokenizer: Tokenizer, counts: Counts, first: Counts, confidence: float) -> dict[str, Any]:
    """The numbers of a tokenizer as a whole. `against_first`: its tokens divided by the first tokenizer's on the same texts."""
    return {
        "kind": type(tokenizer.backend.model).__name__,
        "vocab": tokenizer.vocab,
        "special": len(tokenizer.special),
        "exact": rounded(stats.proportion(int(counts.exact.sum()), len(counts.exact), confidence)),
        "against_first": ratio(counts.tokens, first.tokens, confidence),
        "dead": round(dead(tokenizer, counts), DIGITS),
        "renyi": round(renyi(tokenizer, counts), DIGITS),
    }


def groups(texts: Sequence[Text], counts: Counts, confidence: float) -> list[dict[str, Any]]:
    """Rows of bytes, characters and tokens in all, by domain and, where an input says it, by language."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    by_language = any(text.language is not None for text in texts)
    for i, text in enumerate(texts):
        places[ALL, ALL].append(i)
        places["domain", text.domain].append(i)
        if by_language:
            places["language", text.language or UNSAID].append(i)
    return [{"by": by, "group": group, **_group(texts, counts, where, confidence)} for (by, group), where in sorted(places.items())]


def _group(texts: Sequence[Text], counts: Counts, where: Sequence[int], confidence: float) -> dict[str, Any]:
    tokens = counts.tokens[where]
    columns = {
        "bytes": np.array([texts[i].bytes for i in where]),
        "characters": np.array([len(texts[i].text) for i in where]),
        "words": np.array([texts[i].words for i in where]),
    }
    rates = {
        "bytes_per_token": ratio(columns["bytes"], tokens, confidence),
        "characters_per_token": ratio(columns["characters"], tokens, confidence),
        "tokens_per_word": ratio(tokens, columns["words"], confidence),
        "byte_share": ratio(counts.bytes[where], tokens, confidence),
        "unknown_share": ratio(counts.unknown[where], tokens, confidence),
    }
    return {"documents": len(where), **{name: int(column.sum()) for name, column in columns.items()}, "tokens": int(tokens.sum()), **rates}


def ratio(numerators: Ints, denominators: Ints, confidence: float) -> dict[str, float] | None:
    """sum / sum with its interval over documents. Those whose denominator is 0, as a text without a word, are left out; None: all of them."""
    there = denominators > 0
    return rounded(stats.ratio(numerators[there], denominators[there], confidence)) if there.any() else None


def rounded(estimate: stats.Estimate) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in asdict(estimate).items()}


def dead(tokenizer: Tokenizer, counts: Counts) -> float:
    """Share of the entries, special tokens aside, that no text used."""
    entries = _entries(tokenizer)
    return float((counts.used[entries] == 0).mean())


def renyi(tokenizer: Tokenizer, counts: Counts, alpha: float = ALPHA) -> float:
    """Rényi efficiency (Zouhar et al. 2023, "Tokenization and the Noiseless Channel"): Rényi's entropy of the tokens' frequencies
    divided by what it would be were all entries equally frequent. 1: they are; towards 0: a few make up most of the text."""
    used = counts.used[_entries(tokenizer)]
    frequencies = used[used > 0] / used.sum()
    return float(np.log((frequencies**alpha).sum()) / (1 - alpha) / math.log(len(used)))


def _entries(tokenizer: Tokenizer) -> list[int]:
    return sorted(set(range(tokenizer.vocab)) - set(tokenizer.special.values()))


def parity(texts: Sequence[Text], counts: Counts, reference: str, confidence: float) -> dict[str, dict[str, float]]:
    """By language: its tokens divided by the reference language's, over the texts that both have (Petrov et al. 2023, "Language Model
    Tokenizers Introduce Unfairness Between Languages", "premium"). 2: to say the same takes twice as many tokens.

    ValueError where there is no text in the reference language.
    """
    by: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for text, tokens in zip(texts, counts.tokens.tolist(), strict=True):
        if text.said is not None and text.language is not None:
            by[text.language][text.said] += tokens
    if reference not in by:
        raise ValueError(f"reference {reference!r} is not a language of the translations (there are: {', '.join(sorted(by)) or 'none'})")
    found = {}
    for language, own in sorted(by.items()):
        both = [said for said in own if by[reference].get(said, 0)]
        if both:
            here, there = (np.array([side[said] for said in both]) for side in (own, by[reference]))
            found[language] = rounded(stats.ratio(here, there, confidence))
    return found
