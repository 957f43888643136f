"""Masked rows: how many places, which, and what stands there; against hand-worked rows and transformers' collator."""

import math

import numpy as np
import pytest
import torch
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from bessemer.data import order
from bessemer.data.pretraining.masked import MaskConfig, MaskedRows, Masker, opened, ordinary
from bessemer.data.tokens import TokenFile, Windows
from bessemer.tokenizer.tokenizer import Tokenizer


def rows(file: TokenFile, words: Tokenizer, context: int = 64, batch: int = 4, seed: int = 0, **settings) -> MaskedRows:
    return MaskedRows(Windows(file, context, batch, seed), words, MaskConfig(**settings), seed)


def restored(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The rows before anything was hidden."""
    return batch["tokens"].scatter(1, batch["picked"], batch["targets"])


def test_as_many_places_as_the_rate_says_and_never_a_special_token(file: TokenFile, roles: Tokenizer):
    source = rows(file, roles)
    for step in range(20):
        batch = source(step)
        text = restored(batch)
        plain = torch.from_numpy(ordinary(roles))[text]
        assert batch["picked"].shape == (4, round(0.15 * 64))
        assert batch["token_weight"].sum(1).tolist() == [max(1, round(0.15 * n)) for n in plain.sum(1).tolist()]
        weighed = batch["token_weight"] > 0
        assert plain.gather(1, batch["picked"])[weighed].all()
        assert all(len(set(row)) == len(row) for row in batch["picked"].tolist())
        changed = batch["tokens"] != text
        assert (changed.sum(1) <= weighed.sum(1)).all() and torch.equal(
            changed.gather(1, batch["picked"])[~weighed], torch.zeros(int((~weighed).sum()), dtype=bool)
        )


def test_every_document_begins_with_cls_and_the_rest_is_the_text(file: TokenFile, roles: Tokenizer):
    source = rows(file, roles)
    windows = source.source(3)
    batch = source(3)
    text = restored(batch)
    assert torch.equal(text == roles.cls, batch["at"] == 0)
    for before, after in zip(windows["tokens"], text, strict=True):
        kept = after[after != roles.cls]
        assert torch.equal(before[: len(kept)], kept) and len(kept) + int((after == roles.cls).sum()) == 64
    assert torch.equal(batch["segment"], (batch["at"] == 0).cumsum(1))


def test_opened_by_hand():
    """Documents (5 6 0) and (7 8 ...) of a row of six: two cls go in, the last two tokens fall off. A document that begins where only
    its cls fits keeps that."""
    tokens, at = np.array([[5, 6, 0, 7, 8, 9], [5, 6, 7, 0, 8, 0]]), np.array([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 0, 1]])
    found, place, segment = opened(tokens, at, cls=1)
    assert found.tolist() == [[1, 5, 6, 0, 1, 7], [1, 5, 6, 7, 0, 1]]
    assert place.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 0]]
    assert segment.tolist() == [[1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 1, 2]]


def test_eighty_ten_ten(file: TokenFile, roles: Tokenizer):
    """Of n picked tokens 80 % are masks; a random one of V words is another with probability 0.1 (1 - 1/V). Within four standard
    deviations, sqrt(n p (1 - p)); transformers' collator, which picks each token with 15 %, within four of its own."""
    source = rows(file, roles, batch=64)
    batches = [source(step) for step in range(8)]
    seen = torch.cat([b["tokens"].gather(1, b["picked"])[b["token_weight"] > 0] for b in batches])
    target = torch.cat([b["targets"][b["token_weight"] > 0] for b in batches])
    words = int(ordinary(roles).sum())
    assert ordinary(roles)[seen[seen != roles.mask]].all()

    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "eos_token": "<|endoftext|>"}
    theirs = PreTrainedTokenizerFast(tokenizer_object=roles.backend, **names)
    collator = DataCollatorForLanguageModeling(theirs, mlm_probability=0.15, seed=1)
    found = collator([{"input_ids": row} for batch in batches for row in restored(batch).tolist()])
    picked = found["labels"] >= 0
    for inputs, labels, known in ((seen, target, words), (found["input_ids"][picked], found["labels"][picked], roles.vocab)):
        n = len(inputs)
        assert n > 3000
        for share, expected in ((inputs == roles.mask, 0.8), ((inputs != roles.mask) & (inputs != labels), 0.1 * (1 - 1 / known))):
            assert abs(float(share.sum()) - n * expected) < 4 * math.sqrt(n * expected * (1 - expected))


def test_shares_can_be_chosen(file: TokenFile, roles: Tokenizer):
    kept, swapped = rows(file, roles, masked=0.0, swapped=0.0)(0), rows(file, roles, rate=0.5, masked=0.0, swapped=1.0)(0)
    assert torch.equal(kept["tokens"], restored(kept))
    assert swapped["picked"].shape[1] == 32 and not (swapped["tokens"] == roles.mask).any()
    with pytest.raises(ValueError, match="together at most 1"):
        MaskConfig(masked=0.8, swapped=0.3)
    with pytest.raises(ValueError, match="no token would be predicted"):
        MaskConfig(rate=0.0)


def test_whole_words_are_picked_whole(file: TokenFile, roles: Tokenizer):
    """Against a loop over the tokens: each word is in or out, and no more than the rate's share is in."""
    source = rows(file, roles, batch=16, whole_words=True)
    starts, plain = roles.word_starts(), ordinary(roles)
    long = total = wanted = 0
    for step in range(6):
        batch = source(step)
        for ids, at, places, weight in zip(restored(batch).tolist(), batch["at"].tolist(), batch["picked"], batch["token_weight"], strict=True):
            chosen = set(places[weight > 0].tolist())
            words: list[list[int]] = []
            for place, token in enumerate(ids):
                if not plain[token]:
                    continue
                begins = not words or starts[token] or at[place] == 0 or not plain[ids[place - 1]]
                words.append([place]) if begins else words[-1].append(place)
            assert all(chosen.isdisjoint(word) or chosen.issuperset(word) for word in words)
            long += sum(len(word) > 1 and chosen.issuperset(word) for word in words)
            share = max(1, round(0.15 * sum(map(len, words))))
            assert len(chosen) <= share
            total, wanted = total + len(chosen), wanted + share
    assert long > 30 and total > 0.8 * wanted


def test_a_word_is_as_likely_as_any_other(roles: Tokenizer):
    """Rows of ten words of one token, four places each: every place is picked in 40 % of 4,000 rows, within 4.5 standard deviations of 31."""
    word = next(i for i, starts in enumerate(roles.word_starts()) if starts and ordinary(roles)[i])
    masker = Masker(roles, MaskConfig(rate=0.4, whole_words=True))
    tokens = np.full((4000, 10), word)
    batch = masker(tokens, np.broadcast_to(np.arange(10), tokens.shape), np.random.default_rng(0))
    assert np.abs(np.bincount(batch["picked"].flatten(), minlength=10) - 1600).max() < 4.5 * 31


def test_rows_are_a_pure_function_of_seed_and_step(file: TokenFile, roles: Tokenizer):
    one, two, other = rows(file, roles, seed=5), rows(file, roles, seed=5), rows(file, roles, seed=6)
    [one(step) for step in range(4)]
    assert all(torch.equal(column, two(9)[name]) for name, column in one(9).items())
    assert not torch.equal(one(9)["picked"], other(9)["picked"]) and not torch.equal(one(9)["picked"], one(10)["picked"])
    windows = Windows(file, 64, 4, 0)
    first, again = (one.held_out(order.in_order(windows.at, 6, 4)) for _ in range(2))
    assert [len(batch["tokens"]) for batch in first] == [4, 2]
    assert all(torch.equal(a[name], b[name]) for a, b in zip(first, again, strict=True) for name in a)


def test_a_tokenizer_without_a_mask_is_refused(words: Tokenizer):
    with pytest.raises(ValueError, match="mask"):
        Masker(words, MaskConfig())
