"""Next-sentence rows: structure, what follows what, and that the question cannot be told from lengths."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from bessemer.data.pretraining.masked import MaskConfig, ordinary
from bessemer.data.pretraining.pairs import PairRows, sentence_ends
from bessemer.data.tokens import TokenFile
from bessemer.tokenizer.tokenizer import Tokenizer
from tests.data.conftest import SENTENCES

FileOf = Callable[[Sequence[str]], TokenFile]


def pairs(files: Sequence[TokenFile], words: Tokenizer, context: int = 64, batch: int = 8, seed: int = 0) -> PairRows:
    return PairRows(files, words, MaskConfig(), context, batch, seed)


def texts(batch: dict[str, torch.Tensor], row: int, words: Tokenizer) -> tuple[list[int], list[int]]:
    """A and B of a row, after its frame and its columns have been checked."""
    ids = batch["tokens"].scatter(1, batch["picked"], batch["targets"])[row]
    length = int(batch["segment"][row].sum())
    ids, types = ids[:length].tolist(), batch["types"][row].tolist()
    assert ids[0] == words.cls and ids[-1] == words.sep and ids.count(words.sep) == 2
    cut = ids.index(words.sep)
    assert types == [0] * (cut + 1) + [1] * (length - cut - 1) + [0] * (64 - length)
    assert batch["at"][row].tolist() == list(range(64))
    return ids[1:cut], ids[cut + 1 : -1]


def test_b_follows_a_or_comes_from_elsewhere(file_of: FileOf, roles: Tokenizer):
    """Documents of four sentences each, every sentence in one of them only: where each text stands is known."""
    groups = [SENTENCES[n : n + 4] for n in range(0, 36, 4)]
    where = {sentence: number for number, group in enumerate(groups) for sentence in group}
    whole = [" ".join(group) for group in groups]
    source = pairs([file_of(whole)], roles)
    seen = Counter[int]()
    for step in range(30):
        batch = source(step)
        assert batch["row_weight"].tolist() == [1.0] * 8
        for row, other in enumerate(batch["pair_targets"].tolist()):
            first, second = (roles.decode(ids) for ids in texts(batch, row, roles))
            # Texts begin and end with sentences, but for what the row or the document cuts off.
            home = [number for number, text in enumerate(whole) if first.strip() in text]
            assert len(home) >= 1 and first.endswith(".")
            if other:
                there = [
                    number for sentence, number in where.items() if second.strip().startswith(sentence[:-1]) or sentence.startswith(second.strip())
                ]
                assert set(there) - set(home)
            else:
                assert any(first + second in text for text in whole)
            seen[other] += 1
    assert abs(seen[0] - 120) < 4 * np.sqrt(60)


def test_hidden_tokens_are_text_and_what_is_padding_is_never_picked(file: TokenFile, roles: Tokenizer):
    batch = pairs([file], roles)(0)
    weighed = batch["token_weight"] > 0
    assert batch["picked"].shape == (8, round(0.15 * 64))
    assert ordinary(roles)[batch["targets"][weighed]].all() and (batch["segment"].gather(1, batch["picked"])[weighed] == 1).all()
    plain = [len(first) + len(second) for first, second in (texts(batch, row, roles) for row in range(8))]
    assert weighed.sum(1).tolist() == [max(1, round(0.15 * n)) for n in plain]


def test_an_epoch_reads_every_document(file: TokenFile, roles: Tokenizer):
    """Each stretch of a document is the text of one row, or its beginning is: A begins at every stretch's beginning once an epoch."""
    source = pairs([file], roles, batch=1)
    begins = Counter(tuple(texts(source(step), 0, roles)[0][:2]) for step in range(source.count))
    expected = Counter[tuple[int, ...]]()
    for begin, end in zip(file.offsets[:-1].tolist(), file.offsets[1:].tolist(), strict=True):
        for place in range(begin, end - 1, 61):
            if min(61, end - 1 - place) >= 8:
                expected[tuple(file.ids[place : place + 2].tolist())] += 1
    assert source.count == expected.total() and (expected - begins).total() <= 2  # an A of a single token shows one


def test_lengths_do_not_give_the_answer_away(file_of: FileOf, roles: Tokenizer):
    """B's mean length is the same in both kinds: difference within four standard errors."""
    whole = [" ".join(SENTENCES[(5 * n + k) % 36] for k in range(20)) for n in range(30)]
    source = pairs([file_of(whole)], roles, batch=64)
    lengths: dict[int, list[int]] = {0: [], 1: []}
    for step in range(10):
        batch = source(step)
        for length, other in zip((batch["types"] == 1).sum(1).tolist(), batch["pair_targets"].tolist(), strict=True):
            lengths[other].append(length)
    error = np.sqrt(sum(np.var(each) / len(each) for each in lengths.values()))
    assert abs(np.mean(lengths[0]) - np.mean(lengths[1])) < 4 * error


def test_domains_do_not_mix(file_of: FileOf, roles: Tokenizer):
    """A B from elsewhere comes from the same domain, or the domain would answer the question."""
    farm = [" ".join(SENTENCES[k] for k in range(n, 54, 6)) for n in range(6)]
    town = [" ".join(SENTENCES[k] for k in range(54 + n, 108, 6)) for n in range(6)]
    source = pairs([file_of(farm), file_of(town)], roles)
    found = Counter[tuple[bool, bool]]()
    for step in range(20):
        batch = source(step)
        for row in range(8):
            both = " ".join(roles.decode(ids) for ids in texts(batch, row, roles))
            found[any(who in both for who in ("farmer", "teacher")), any(who in both for who in ("uncle", "engineer"))] += 1
    assert not found[True, True] and min(found[True, False], found[False, True]) > 40


def test_rows_are_a_pure_function_of_seed_and_step(file: TokenFile, roles: Tokenizer):
    one, two, other = (pairs([file], roles, seed=seed) for seed in (5, 5, 6))
    [one(step) for step in range(4)]
    assert all(torch.equal(column, two(9)[name]) for name, column in one(9).items())
    assert not torch.equal(one(9)["tokens"], other(9)["tokens"])
    fixed = [one.rows(np.arange(5)) for _ in range(2)]
    assert all(torch.equal(fixed[0][name], fixed[1][name]) for name in fixed[0])


def test_sentence_ends(roles: Tokenizer):
    ends = sentence_ends(roles)
    for text, expected in ((".", True), ("e", False), ("?", True), ("\n", True), (",", False)):
        assert ends[roles.encode(text)[-1]] == expected


def test_what_gives_no_pairs_is_refused(file_of: FileOf, file: TokenFile, roles: Tokenizer, words: Tokenizer):
    with pytest.raises(ValueError, match="needs two documents with text"):
        pairs([file, file_of([SENTENCES[0]])], roles)
    with pytest.raises(ValueError, match="no document has 8 tokens"):
        pairs([file_of(["a", "b"])], roles)
    with pytest.raises(ValueError, match="context 10 is too short for two texts"):
        pairs([file], roles, context=10)
    with pytest.raises(ValueError, match="mask"):
        pairs([file], words)
