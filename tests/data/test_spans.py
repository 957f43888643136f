"""Span corruption: lengths as T5 computes them, a row worked by hand, and source and target put together again are the text."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from bessemer.data import order
from bessemer.data.pretraining.spans import SpanConfig, SpanRows, counts, lengths, noise
from bessemer.data.tokens import TokenFile, Windows
from bessemer.tokenizer.tokenizer import Tokenizer

T5 = SpanConfig()


def rows(file: TokenFile, words: Tokenizer, context: int = 64, seed: int = 0, cfg: SpanConfig = T5) -> SpanRows:
    return SpanRows(Windows(file, lengths(context, cfg)[0], 4, seed), context, words, cfg, seed)


def together(batch: dict[str, torch.Tensor], row: int, words: Tokenizer) -> list[int]:
    """The text of a row: each sentinel of the source gives way to what the target says after it, segment by segment."""
    source, whose = batch["source_tokens"][row].tolist()[:-1], batch["source_segment"][row].tolist()
    said: dict[tuple[int, int], list[int]] = {}
    for token, segment in list(zip(batch["targets"][row].tolist(), batch["segment"][row].tolist(), strict=True))[:-1]:
        if token in words.sentinels:
            here = said.setdefault((segment, token), [])
        else:
            here.append(token)
    return [token for place, one in enumerate(source) for token in (said[whose[place], one] if one in words.sentinels else [one])]


def test_lengths_are_those_of_t5():
    """512 tokens of source hold 568 of text and have 114 of target: the numbers of T5's own configuration (Raffel et al. 2020, 568 hidden
    by 15 % are 85 in 28 spans: 568 - 85 + 28 + 1 = 512 and 85 + 28 + 1 = 114)."""
    assert lengths(512, T5) == (568, 114)
    for context in range(3, 300):
        for cfg in (T5, SpanConfig(0.5, 3.0), SpanConfig(0.15, 1.0), SpanConfig(0.3, 20.0)):
            length, target = lengths(context, cfg)
            hidden, spans = counts(length, cfg)
            assert length - hidden + spans + 1 <= context and target == hidden + spans + 1
            hidden, spans = counts(length + 1, cfg)
            assert length + 1 - hidden + spans + 1 > context


def test_noise_is_spans_in_turn_every_cut_as_likely():
    """Nine tokens, four of them hidden in two spans: three ways to cut 4 into two, four to cut 5, twelve masks in all, kept first and
    hidden last. Chi-squared over 6,000: mean 11, standard deviation sqrt(22) = 4.7; within four."""
    cfg = SpanConfig(rate=0.45, span=2.0)
    assert counts(9, cfg) == (4, 2)
    found = Counter(tuple(row) for row in noise(6000, 9, cfg, np.random.default_rng(0)).astype(int).tolist())
    allowed = {(0,) * a + (1,) * b + (0,) * (5 - a) + (1,) * (4 - b) for a, b in itertools.product(range(1, 5), range(1, 4))}
    assert set(found) == allowed and sum((found[one] - 500) ** 2 / 500 for one in allowed) < 11 + 4 * 4.7
    for length in (2, 3, 10, 200):
        hidden, spans = counts(length, T5)
        mask = noise(50, length, T5, np.random.default_rng(1))
        assert (mask.sum(1) == hidden).all() and not mask[:, 0].any() and mask[:, -1].all()
        assert ((mask[:, 1:] & ~mask[:, :-1]).sum(1) == spans).all()


def test_a_row_by_hand(file: TokenFile, roles: Tokenizer):
    """Documents "a b c d END" and "e f g h": hidden are b, "d END e" across the border, and h.

    The first document's source is "a <0> c <1>", its target "<0> b <1> d END e", where neither END nor e weighs; the second's source
    "f g <0>" and target "<0> h", and both end.
    """
    a, b, c, d, e, f, g, h = 30, 31, 32, 33, 34, 35, 36, 37
    end, (zero, one, *_) = roles.end_of_text, roles.sentinels
    source = rows(file, roles)
    ids, segment = np.array([[a, b, c, d, end, e, f, g, h]]), np.array([[1, 1, 1, 1, 1, 2, 2, 2, 2]])
    hidden = np.array([[0, 1, 0, 1, 1, 1, 0, 0, 1]], dtype=bool)
    batch = {name: column[0].tolist() for name, column in source.corrupt(ids, segment, hidden).items()}
    assert batch["source_tokens"] == [a, zero, c, one, f, g, zero, end]
    assert batch["source_segment"] == [1, 1, 1, 1, 2, 2, 2, 2] and batch["source_at"] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert batch["targets"] == [zero, b, one, d, end, e, zero, h, end]
    assert batch["segment"] == [1, 1, 1, 1, 1, 1, 2, 2, 2] and batch["at"] == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert batch["tokens"] == [roles.pad, zero, b, one, d, end, roles.pad, zero, h]
    assert batch["token_weight"] == [1, 1, 1, 1, 0, 0, 1, 1, 1]


def test_source_and_target_are_the_text_and_both_are_full(file: TokenFile, roles: Tokenizer):
    for cfg in (T5, SpanConfig(0.5, 4.0)):
        source = rows(file, roles, cfg=cfg)
        for step in range(10):
            text, batch = source.source(step), source(step)
            _, target = lengths(64, cfg)
            assert batch["source_tokens"].shape[1] <= 64 and batch["targets"].shape == (4, target)
            for row in range(4):
                assert together(batch, row, roles) == text["tokens"][row].tolist()
                assert batch["source_tokens"][row, -1] == batch["targets"][row, -1] == roles.end_of_text


def test_each_document_sees_and_says_its_own(file: TokenFile, roles: Tokenizer):
    """Every target segment has a source, sentinels of a segment count from 0, and what weighs in a target was in that document."""
    source = rows(file, roles)
    for step in range(10):
        text, batch = source.source(step), source(step)
        for row in range(4):
            whose, said = batch["source_segment"][row], batch["segment"][row]
            for segment in said.unique().tolist():
                spoken = [token for token in batch["targets"][row][said == segment].tolist() if token in roles.sentinels]
                shown = [token for token in batch["source_tokens"][row][whose == segment].tolist() if token in roles.sentinels]
                assert spoken == shown == list(roles.sentinels[: len(spoken)]) and spoken
                own = Counter(text["tokens"][row][text["segment"][row] == segment].tolist())
                weighed = Counter(batch["targets"][row][(said == segment) & (batch["token_weight"][row] > 0)].tolist())
                assert not [token for token, n in weighed.items() if n > own[token] and token not in (*roles.sentinels, roles.end_of_text)]


def test_rows_are_a_pure_function_of_seed_and_step(file: TokenFile, roles: Tokenizer):
    one, two, other = rows(file, roles, seed=5), rows(file, roles, seed=5), rows(file, roles, seed=6)
    [one(step) for step in range(4)]
    assert all(torch.equal(column, two(9)[name]) for name, column in one(9).items())
    assert not torch.equal(one(9)["targets"], other(9)["targets"])
    windows = Windows(file, one.length, 4, 0)
    first, again = (one.held_out(order.in_order(windows.at, 6, 4)) for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(first, again, strict=True) for name in a)


def test_what_cannot_be_corrupted_is_refused(file: TokenFile, roles: Tokenizer, words: Tokenizer):
    with pytest.raises(ValueError, match="needs a source of 3 tokens or more, not 2"):
        lengths(2, T5)
    with pytest.raises(ValueError, match=r"hides 28 spans, and the tokenizer has 24 sentinels: shorten the row"):
        rows(file, roles, context=300, cfg=SpanConfig(0.15, 1.7))
    with pytest.raises(ValueError, match="sentinels"):
        rows(file, words)
