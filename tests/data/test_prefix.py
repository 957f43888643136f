"""Prefix rows: splits are even, targets of the prefix weigh nothing, nothing else changes."""

import numpy as np
import torch

from bessemer.data import order
from bessemer.data.pretraining.prefix import PrefixRows, split
from bessemer.data.tokens import TokenFile, Windows


def row(*lengths: int) -> dict[str, torch.Tensor]:
    """One row of documents of these lengths, without padding."""
    segment = torch.tensor([[number for number, length in enumerate(lengths, 1) for _ in range(length)]])
    at = torch.tensor([[place for length in lengths for place in range(length)]])
    return {"tokens": at + 10, "targets": at + 11, "at": at, "segment": segment, "token_weight": torch.ones(at.shape)}


def test_a_prefix_begins_its_document_and_its_targets_weigh_nothing(file: TokenFile):
    source = PrefixRows(Windows(file, 64, 4, 0), seed=0)
    for step in range(10):
        before, after = source.source(step), source(step)
        assert all(torch.equal(after[name], before[name]) for name in ("tokens", "targets", "at", "segment"))
        for prefix, segment, weight in zip(after["prefix"].tolist(), after["segment"].tolist(), after["token_weight"].tolist(), strict=True):
            for number in set(segment):
                places = [place for place, one in enumerate(segment) if one == number]
                inside = [prefix[place] for place in places]
                assert inside == sorted(inside, reverse=True) and not inside[-1]
                # A place weighs where its target, the next token, is outside the prefix.
                assert [weight[place] for place in places] == [float(not within) for within in [*inside[1:], False]]


def test_every_split_is_as_likely(file: TokenFile):
    """Five tokens: prefixes of 0 to 4, 1,000 of each in 5,000, standard deviation sqrt(5000 x 1/5 x 4/5) = 28; within four."""
    batch = {name: column.repeat(5000, 1) for name, column in row(5).items()}
    found = split(batch, np.random.default_rng(0))["prefix"].sum(1)
    assert np.abs(np.bincount(found, minlength=5) - 1000).max() < 4 * 28.3 and int(found.max()) == 4


def test_padding_and_weights_stay():
    """What weighed nothing weighs nothing, and padding is no prefix."""
    batch = row(6, 4)
    batch["segment"][0, 6:] = 0
    batch["token_weight"][0, 6:] = 0
    batch["token_weight"][0, 5] = 0.5
    for seed in range(20):
        found = split(batch, np.random.default_rng(seed))
        assert not found["prefix"][0, 6:].any() and found["token_weight"][0, 5] == 0.5 and not found["token_weight"][0, 6:].any()


def test_rows_are_a_pure_function_of_seed_and_step(file: TokenFile):
    windows = Windows(file, 64, 4, 0)
    one, two, other = PrefixRows(windows, 5), PrefixRows(windows, 5), PrefixRows(windows, 6)
    assert torch.equal(one(9)["prefix"], two(9)["prefix"]) and not torch.equal(one(9)["prefix"], other(9)["prefix"])
    first, again = (one.held_out(order.in_order(windows.at, 6, 4)) for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(first, again, strict=True) for name in a)
