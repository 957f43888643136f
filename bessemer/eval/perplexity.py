"""Bits per byte: how many bits the model needs for each byte of held-out text. It compares models across tokenizers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.data.tokens import TokenFile, surplus
from bessemer.eval import likelihood, stats
from bessemer.model.model import Model
from bessemer.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Scored:
    """Documents as one model read them."""

    bits: list[float]  # of each document's text
    sizes: list[int]  # UTF-8 bytes of each
    tokens: int

    @property
    def bits_per_byte(self) -> stats.Estimate:
        return stats.ratio(self.bits, self.sizes)

    @property
    def perplexity(self) -> float:
        """Per token, so only comparable between models of one tokenizer."""
        return 2 ** (sum(self.bits) / self.tokens)


def documents(model: Model, tokenizer: Tokenizer, file: TokenFile, numbers: Sequence[int], max_tokens: int) -> Scored:
    """Score the named documents of a token file, each up to its first `max_tokens` tokens, with only end-of-text before it.

    ValueError where the file's ids were made by another tokenizer than the model's: their bytes would not add up.
    """
    if not tokenizer.exact:
        raise ValueError("this tokenizer changes texts (case, spaces or forms of characters), so bits per byte of a text mean nothing for it")
    widths = tokenizer.token_bytes()
    texts, sizes = [], []
    for number in numbers:
        ids = file.ids[file.offsets[number] : file.offsets[number + 1] - 1].tolist()  # the end of text is no byte of it
        lead = surplus(file, number, tokenizer)
        if lead is None or lead not in (0, tokenizer.lead):
            raise ValueError(f"document {file.documents[number]} was not encoded by this model's tokenizer, so its ids mean other text here")
        texts.append(ids[:max_tokens])
        sizes.append(sum(widths[i] for i in ids[:max_tokens]) - lead)
    kept = [(text, size) for text, size in zip(texts, sizes, strict=True) if size]
    if not kept:
        raise ValueError("no held-out document has any text")
    nats = likelihood.documents(model, [text for text, _ in kept], tokenizer.end_of_text)
    return Scored([-value / math.log(2) for value in nats], [size for _, size in kept], sum(len(text) for text, _ in kept))


def sample(file: TokenFile, tokens: int, max_tokens: int) -> list[int]:
    """Numbers of documents, spread evenly over the file, that together hold about `tokens` tokens (no document more than `max_tokens`)."""
    lengths = [min(int(b - a - 1), max_tokens) for a, b in zip(file.offsets[:-1], file.offsets[1:], strict=True)]
    stride = max(1.0, sum(lengths) / tokens)
    picked, at = [], 0.0
    while at < len(lengths):
        picked.append(int(at))
        at += stride
    return picked
