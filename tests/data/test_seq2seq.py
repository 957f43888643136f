"""Source and target rows: packed on both sides, a target beside its own source, nothing lost."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bessemer.data import seq2seq
from bessemer.data.seq2seq import Seq2SeqRows
from bessemer.tokenizer.tokenizer import Tokenizer
from tests.data.conftest import SENTENCES

ROWS = [{"source": sentence, "target": " ".join(reversed(sentence.split()[: 2 + n % 4]))} for n, sentence in enumerate(SENTENCES[:40])]


def test_a_row_by_hand():
    """Pairs (5 6 9 -> 7 9) and (8 9 -> 4 4 9), where 9 ends and 0 starts."""
    source = Seq2SeqRows([([5, 6, 9], [7, 9]), ([8, 9], [4, 4, 9])], 6, 6, 1, 0, start=0)
    batch = {name: column.tolist() for name, column in source.rows(np.array([0])).items()}
    assert source.count == 1 and source.fill == [5 / 6, 5 / 6]
    assert batch["source_tokens"] == [[5, 6, 9, 8, 9, 0]] and batch["source_segment"] == [[1, 1, 1, 2, 2, 0]]
    assert batch["source_at"] == [[0, 1, 2, 0, 1, 0]]
    assert batch["targets"] == [[7, 9, 4, 4, 9, 0]] and batch["tokens"] == [[0, 7, 0, 4, 4, 0]]
    assert batch["segment"] == [[1, 1, 2, 2, 2, 0]] and batch["at"] == [[0, 1, 0, 1, 2, 0]]
    assert batch["token_weight"] == [[1, 1, 1, 1, 1, 0]]


def test_every_pair_is_in_one_row_and_reads_as_it_did(roles: Tokenizer):
    pairs, too_long = seq2seq.encode(ROWS, roles, 48, 32)
    source = Seq2SeqRows(pairs, 48, 32, 4, 0, seq2seq.start_of(roles))
    assert source.count < len(pairs) == len(ROWS) - too_long
    batch, found = source.rows(np.arange(source.count)), []
    for row in range(source.count):
        for number in range(1, int(batch["segment"][row].max()) + 1):
            own, its = batch["segment"][row] == number, batch["source_segment"][row] == number
            assert batch["tokens"][row][own][0] == roles.pad and torch.equal(batch["tokens"][row][own][1:], batch["targets"][row][own][:-1])
            texts = [batch["source_tokens"][row][its].tolist(), batch["targets"][row][own].tolist()]
            assert all(ids[-1] == roles.end_of_text and ids.count(roles.end_of_text) == 1 for ids in texts)
            found.append(tuple(map(roles.decode, texts)))
    assert sorted(found) == sorted((row["source"], row["target"]) for row in ROWS)


def test_packing_respects_both_sides_and_loses_nothing():
    draw = np.random.default_rng(0)
    needs = [(int(a), int(b)) for a, b in zip(draw.integers(1, 90, 500), draw.integers(1, 40, 500), strict=True)]
    rows = seq2seq.pack(needs, (128, 64))
    assert sorted(item for items in rows for item in items) == list(range(500))
    sums = np.array([np.sum([needs[i] for i in items], axis=0) for items in rows])
    assert (sums <= [128, 64]).all()
    least = max(np.sum(needs, axis=0) / [128, 64])
    assert len(rows) <= 1.15 * least + 1
    began = time.process_time()
    assert len(seq2seq.pack(needs * 40, (128, 64))) <= 1.15 * 40 * least + 1
    assert time.process_time() - began < 10  # 20,000 pairs: no pass over all rows for each


def test_long_pairs_are_counted_and_nothing_is_refused(roles: Tokenizer):
    long = [{"source": SENTENCES[0] * 40, "target": "short"}, {"source": "short", "target": SENTENCES[0] * 40}]
    pairs, too_long = seq2seq.encode(ROWS + long, roles, 48, 32)
    assert too_long >= 2 and len(pairs) == len(ROWS) + 2 - too_long
    with pytest.raises(ValueError, match="none of 2 rows fits 48 tokens of source and 32 of target"):
        seq2seq.encode(long, roles, 48, 32)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no rows of source and target"),
        ('{"source": "a", "target": "b"}\n{"source": "a"}\n', "row 2: target must be a text that is not empty"),
        ('{"source": " ", "target": "b"}\n', "row 1: source must be a text"),
        ('{"source": ["a"], "target": "b"}\n', "row 1: source must be a text"),
        ('{"source": "a", "target"', ":1: not JSON"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, said: str):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said):
        seq2seq.read(tmp_path / "rows.jsonl")
