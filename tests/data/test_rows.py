"""Chat rows and preference pairs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bessemer.data import chat, preference
from bessemer.model.model import Model
from bessemer.tokenizer.tokenizer import Tokenizer
from bessemer.train.objective import predict


def row(question: str, answer: str) -> dict:
    return {"id": question, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


ROWS = [row(f"What is {n}?", "It is " + "so " * n + "long.") for n in range(12)]


def test_packing_is_best_fit_and_loses_nothing():
    assert chat.pack([5, 4, 3, 3, 2, 1], room=6) == [[0, 5], [1, 4], [2, 3]]
    lengths = np.random.default_rng(0).integers(1, 50, size=300).tolist()
    bins = chat.pack(lengths, 64)
    assert sorted(item for items in bins for item in items) == list(range(300))
    assert all(sum(lengths[i] for i in items) <= 64 for items in bins)
    assert len(bins) <= sum(lengths) / 64 * 1.05 + 1


def test_packed_conversations_do_not_see_each_other(small: Model, words: Tokenizer):
    """Each conversation's losses are those it has in a row of its own."""
    encoded, _ = chat.encode(ROWS, words, 64)
    packed = chat.ChatRows(encoded, 160, 2, seed=0)
    assert packed.count < len(encoded)
    together = sum(float((predict(small, b)["loss"] * b["token_weight"]).sum()) for b in [packed.rows(np.arange(packed.count))])
    apart = 0.0
    for conversation in encoded:
        batch = chat.ChatRows([conversation], 160, 1, seed=0).rows(np.array([0]))
        apart += float((predict(small, batch)["loss"] * batch["token_weight"]).sum())
    assert together == pytest.approx(apart, rel=1e-5)


def test_only_answers_weigh(words: Tokenizer):
    encoded, too_long = chat.encode(ROWS, words, 64)
    source = chat.ChatRows(encoded, 64, 2, seed=0)
    batch = source.rows(np.arange(source.count))
    weighed = batch["targets"][batch["token_weight"] > 0]
    assert int((weighed == words.end_of_turn).sum()) == len(encoded) == len(ROWS) - too_long
    assert not torch.isin(weighed, torch.tensor(words.encode("What?"))[:1]).any()
    assert float(batch["token_weight"][batch["segment"] == 0].sum()) == 0.0


def test_rows_that_teach_nothing_are_refused(words: Tokenizer, tmp_path: Path):
    with pytest.raises(ValueError, match="there is nothing to learn from"):
        chat.encode([{"messages": [{"role": "user", "content": "only a question"}]}], words, 64)
    with pytest.raises(ValueError, match="there is nothing to learn from"):
        chat.encode([row("long", "word " * 100)], words, 64)
    for text, said in [
        ("", "holds no chat rows"),
        ("{}\n", "row 1: a chat row is an object with messages"),
        ('{"messages": []}\n{"mess\n', ":2: not JSON"),
    ]:
        (tmp_path / "rows.jsonl").write_text(text)
        with pytest.raises(ValueError, match=said):
            chat.read(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        chat.read(tmp_path / "rows.jsonl")


def test_pairs_weigh_the_last_answer_only(words: Tokenizer):
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "first"}, {"role": "user", "content": "b"}]
    pairs, _ = preference.encode([{"messages": history, "chosen": "yes", "rejected": "no no"}], words, 64)
    batch = preference.Pairs(pairs, 1, 0, np.array([[-1.0, -2.0]]))(0)
    for side, text in (("chosen", "yes"), ("rejected", "no no")):
        target = batch[f"{side}_targets"][batch[f"{side}_weight"] > 0].tolist()
        assert words.decode(target, skip_special=False) == text + "<|im_end|>"
    assert batch["reference_chosen"].tolist() == [-1.0] and batch["reference_rejected"].tolist() == [-2.0]
    with pytest.raises(ValueError, match="needs text under chosen"):
        preference.encode([{"messages": history, "chosen": "yes"}], words, 64)
