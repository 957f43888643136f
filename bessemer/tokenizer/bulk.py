"""Encode many texts with `tiktoken`, built from the same tokenizer.json: several times the speed of `tokenizers`, the same ids.

tiktoken knows only ranks: of all neighbours it joins those whose union has the lowest id. That is byte-level BPE exactly where ids ascend in
the order of the merges, and every token is what its own bytes are merged into. Both are checked for every token; the cuts between words are
compared on the texts at hand and on difficult ones.
"""

import itertools
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models

from bessemer.tokenizer import split
from bessemer.tokenizer.pieces import ALPHABET, spell, unspell

# Where engines of regular expressions and tables of Unicode disagree first.
HARD = (
    "",
    " ",
    "  two  spaces\n\n\tand tabs\r\n \r\n",
    "don't DON'T 'S 'ſ I'LL we'vE",
    "Grüße, 世界! 🎉 e\u0301\u0301 नमस्ते สวัสดี مرحبا ǅ Ⅷ ½ ² ١٢٣ ４５６ 12345678",
    "\x00\x1c\x1d\x1e\x1f\x7f\x85\xa0\u1680\u180e\u2000\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff\ufffd\U000e0001",
    "a" * 600 + " " * 600 + "\n" * 50 + "1" * 50 + "!" * 50,
    "<|endoftext|><|im_start|> [MASK] </s> <0x0A>",
)
# tiktoken's engine of regular expressions runs out of its stack on a million white characters in a row.
BLANK = 100_000


class Refused(ValueError):
    """Why a tokenizer cannot be run by tiktoken."""


class Bulk:
    """A byte-level BPE tokenizer run by tiktoken. Refused where equal ids cannot be shown."""

    def __init__(self, backend: Backend, sample: Sequence[str] = ()):
        try:
            import tiktoken
        except ModuleNotFoundError:
            raise Refused('tiktoken is not installed: pip install "bessemer[data]"') from None
        layout = json.loads(backend.to_str())
        ranks, words = _ranks(layout), split.pattern(layout)
        if words is None:
            raise Refused("its words are cut in a way that one regular expression does not give")
        # Some vocabularies, such as SmolLM2's, lack rare bytes; tiktoken wants all. Texts with one are left to `tokenizers`.
        self.known = max(ranks.values(), default=-1) + 1
        lacking = {byte for byte in map(unspell, ALPHABET) if byte not in ranks}
        ranks |= {byte: self.known + i for i, byte in enumerate(sorted(lacking))}
        self.complete = not lacking
        try:
            self.encoding = tiktoken.Encoding("bulk", pat_str=words, mergeable_ranks=ranks, special_tokens={})
        except ValueError as error:
            raise Refused(f"tiktoken does not take its regular expression: {error}") from None
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.backend = backend
        tried = [*HARD, *sample]
        theirs = [encoding.ids for encoding in backend.encode_batch_fast(tried, add_special_tokens=False)]
        for text, ours, known in zip(tried, self(tried), theirs, strict=True):
            if ours != known:
                raise Refused(f"its ids differ for {text[:40]!r}")

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        blank = {i for i, text in enumerate(texts) if len(text) >= BLANK and re.search(rf"\s{{{BLANK}}}", text)}
        rest = [i for i in range(len(texts)) if i not in blank]
        encoded = self.encoding.encode_ordinary_batch([texts[i] for i in rest], num_threads=self.threads)
        found = {i: ids for i, ids in zip(rest, encoded, strict=True) if self.complete or max(ids, default=0) < self.known}
        return [found[i] if i in found else self.backend.encode(text, add_special_tokens=False).ids for i, text in enumerate(texts)]


def _ranks(layout: dict[str, Any]) -> dict[bytes, int]:
    """Bytes of each token -> id. Refused where ids, taken as ranks, would merge anything else than the tokenizer's own merges."""
    model = layout["model"]
    added = {token["content"] for token in layout["added_tokens"]}
    if model["type"] != "BPE" or '"ByteLevel"' not in json.dumps(layout["decoder"]):
        raise Refused("it is no byte-level BPE")
    if layout["normalizer"] or not all(token["special"] for token in layout["added_tokens"]):
        raise Refused("it changes texts before they are cut, or has added tokens that are not special")
    if model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"] or model["byte_fallback"]:
        raise Refused("its merges are marked, random, or fall back to bytes")
    vocab = {piece: i for piece, i in model["vocab"].items() if piece not in added}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    results = [vocab.get(left + right, -1) for left, right in merges]
    if any(later < earlier for earlier, later in itertools.pairwise(results)):
        raise Refused("its ids are not in the order of its merges")
    _check_reached(vocab, merges, model["ignore_merges"])
    return {unspell(piece): i for piece, i in vocab.items()}


def _check_reached(vocab: dict[str, int], merges: list[tuple[str, str]], whole: bool) -> None:
    """Refused where a token is not what its own bytes merge into, unless it is `whole` words alone that may become one (ignore_merges)."""
    alone = Backend(models.BPE(vocab, merges))  # type: ignore[arg-type]
    pieces = list(vocab)
    odd = [piece for piece, found in zip(pieces, alone.encode_batch_fast(pieces), strict=True) if found.ids != [vocab[piece]]]
    if odd and not whole:
        raise Refused(f"it never produces its token {odd[0]!r}")
    known = set(merges)
    for piece in odd:
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        if any(left in vocab and right in vocab and (left, right) not in known for left, right in pairs):
            raise Refused(f"it never merges {piece!r}, where tiktoken would")


def ranks_to_model(ranks: dict[bytes, int]) -> models.BPE:
    """The BPE model of a rank file: a token's merge joins the two parts that the tokens before it merge its bytes into.

    Every split into two known tokens is listed, in the order of ranks: a neighbourhood of either kind may come up within a word.
    """
    vocab = {spell(token): rank for token, rank in ranks.items()}
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda entry: entry[1]):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += sorted(((spell(a), spell(b)) for a, b in pairs), key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return models.BPE(vocab, merges, ignore_merges=True)  # tiktoken takes a word that is a token as it is
