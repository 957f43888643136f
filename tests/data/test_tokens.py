"""Token files and the sources: pure functions of the step, hand-worked on a few tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bessemer.data import order, tokens
from bessemer.data.tokens import Windows

DOCUMENTS = [("d0", 6, [1, 2, 3]), ("d1", 2, [4]), ("d2", 12, [5, 6, 7, 8, 9, 10])]  # end of text is 0


@pytest.fixture
def file(tmp_path: Path) -> tokens.TokenFile:
    assert tokens.write(tmp_path, "train", iter(DOCUMENTS), vocab=11, end_of_text=0) == 13
    return tokens.load(tmp_path, "train", 11)


def test_a_token_file_holds_documents_one_after_another(file: tokens.TokenFile):
    assert file.ids.tolist() == [1, 2, 3, 0, 4, 0, 5, 6, 7, 8, 9, 10, 0]
    assert file.offsets.tolist() == [0, 4, 6, 13] and file.lengths.tolist() == [6, 2, 12]
    assert [file.document_at(t) for t in (0, 3, 4, 5, 6, 12)] == [0, 0, 1, 1, 2, 2]


def test_windows_know_their_documents(file: tokens.TokenFile):
    batch = Windows(file, context=4, batch=1, seed=0).at(np.array([0, 1]))
    assert batch["tokens"].tolist() == [[1, 2, 3, 0], [4, 0, 5, 6]]
    assert batch["targets"].tolist() == [[2, 3, 0, 4], [0, 5, 6, 7]]
    assert batch["at"].tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert batch["segment"].tolist() == [[1, 1, 1, 1], [1, 1, 2, 2]]
    late = Windows(file, context=4, batch=1, seed=0).at(np.array([2]))
    assert late["tokens"].tolist() == [[7, 8, 9, 10]] and late["at"].tolist() == [[0, 1, 2, 3]]


def test_every_epoch_reads_every_row_once_in_another_order():
    first, second = (np.concatenate([order.rows(step, 7, 21, seed=3) for step in steps]) for steps in ((0, 1, 2), (3, 4, 5)))
    assert sorted(first) == sorted(second) == list(range(21)) and first.tolist() != second.tolist()
    assert order.rows(1, 7, 21, seed=3).tolist() == first[7:14].tolist()
    assert order.rows(1, 7, 21, seed=4).tolist() != first[7:14].tolist()


def test_a_step_may_span_epochs():
    rows = np.concatenate([order.rows(step, 4, 6, seed=0) for step in range(3)])
    assert sorted(rows[:6]) == sorted(rows[6:]) == list(range(6))


def test_which_documents_a_step_read_is_a_lookup(file: tokens.TokenFile):
    source = Windows(file, context=4, batch=1, seed=0)
    named = {int(order.rows(step, 1, 3, 0)[0]): source.documents_at(step) for step in range(3)}
    assert named == {0: ["d0", "d1"], 1: ["d1", "d2"], 2: ["d2"]}


def test_a_damaged_token_file_is_named(file: tokens.TokenFile, tmp_path: Path):
    (tmp_path / "train.bin").write_bytes((tmp_path / "train.bin").read_bytes()[:-2])
    with pytest.raises(ValueError, match="holds 12 tokens of 13"):
        tokens.load(tmp_path, "train", 11)
    with pytest.raises(FileNotFoundError, match=r"holds no val\.bin"):
        tokens.load(tmp_path, "val", 11)
    with pytest.raises(ValueError, match="do not fill one window of 64"):
        Windows(file, context=64, batch=1, seed=0)


def test_large_vocabularies_take_four_bytes(tmp_path: Path):
    tokens.write(tmp_path, "val", [("d", 4, [70_000, 3])], vocab=100_000, end_of_text=1)
    assert tokens.load(tmp_path, "val", 100_000).ids.tolist() == [70_000, 3, 1]


def test_a_source_is_a_pure_function_of_the_step(file: tokens.TokenFile):
    one, two = Windows(file, 4, 2, seed=5), Windows(file, 4, 2, seed=5)
    [one(step) for step in range(5)]
    for name, column in one(7).items():
        assert torch.equal(column, two(7)[name])


def test_held_out_rows_come_in_order_and_the_last_batch_may_be_smaller():
    assert [numbers.tolist() for numbers in order.in_order(lambda numbers: numbers, 5, 2)] == [[0, 1], [2, 3], [4]]
