"""Questions answered from a text: places of answers, windows, and answers read back from scores."""

import re

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from bessemer.data import extractive
from bessemer.data.labelled import Example, LabelledRows
from bessemer.tokenizer.tokenizer import Tokenizer
from tests.data.conftest import SENTENCES

TEXT = " ".join(SENTENCES[2:9])


def asked(answer: str, context: str = TEXT, question: str = "What does he see?", nth: int = 0) -> dict:
    start = -1
    for _ in range(nth + 1):
        start = context.find(answer, start + 1)
    return {"question": question, "context": context, "answer": answer, "start": start}


ROWS = [
    asked("unbelievable machine"),
    asked("letter", nth=1),
    asked("lantern at the"),
    asked("achi"),
    asked(""),
    asked("A farmer"),
    asked("library."),
    asked("世界", "Grüße an die 世界! 🎉"),
]


def perfect(example: Example) -> np.ndarray:
    """Scores that name the example's own answer."""
    scores = np.zeros((2, len(example.ids)))
    scores[0, example.targets[0]] = scores[1, example.ends[0]] = 5.0
    return scores


def test_targets_are_the_tokens_that_hold_the_answer(roles: Tokenizer):
    examples, places = extractive.windows(ROWS, roles, 400)
    assert len(examples) == len(ROWS) and [place.row for place in places] == list(range(len(ROWS)))
    for row, example in zip(ROWS, examples, strict=True):
        assert list(example.ids) == [roles.cls, *roles.encode(row["question"]), roles.sep, *roles.encode(row["context"]), roles.sep]
        (first,), (last,) = example.targets, example.ends
        text = roles.decode(example.ids[first : last + 1])
        assert row["answer"] in text and (first, last) != (0, 0) if row["answer"] else (first, last) == (0, 0)
        if first:  # not a token more than needed
            assert row["answer"] not in roles.decode(example.ids[first + 1 : last + 1]) and row["answer"] not in roles.decode(example.ids[first:last])
        assert example.picked == [0] and example.types[first] == (1 if first else 0)


def test_perfect_scores_give_the_answer_back(roles: Tokenizer):
    examples, places = extractive.windows(ROWS, roles, 400)
    found = extractive.answers(ROWS, places, [perfect(example) for example in examples])
    for row, answer in zip(ROWS, found, strict=True):
        assert answer == row["answer"] or (row["answer"] and row["answer"] in answer)  # tokens may be longer than the answer
    assert found[0] == "unbelievable machine" and found[4] == "" and found[7].startswith("世界")


@pytest.mark.parametrize(("context", "stride"), [(60, 20), (40, 5), (64, 40)])
def test_windows_cover_the_text_as_transformers_does(context: int, stride: int, roles: Tokenizer):
    """Its stride is the overlap: what a window has beyond ours."""
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "eos_token": "<|endoftext|>"}
    theirs = PreTrainedTokenizerFast(tokenizer_object=roles.backend, **names)
    for row in ROWS[:7]:
        examples, places = extractive.windows([row], roles, context, stride)
        room = context - places[0].begin - 1
        expected = theirs(
            row["question"], row["context"], truncation="only_second", max_length=context, stride=room - stride, return_overflowing_tokens=True
        )["input_ids"]
        assert [list(example.ids) for example in examples] == expected and len(examples) > 1
        seen = {at for place in places for at in place.spans[:, 0].tolist()}
        assert seen == set(extractive.windows([row], roles, 400)[1][0].spans[:, 0].tolist())
        with_answer = [example for example in examples if example.targets[0]]
        assert all(row["answer"] in roles.decode(one.ids[one.targets[0] : one.ends[0] + 1]) for one in with_answer)
        assert bool(with_answer) == bool(row["answer"])  # these answers are shorter than the overlap
        found = extractive.answers([row], places, [perfect(example) for example in examples])
        assert row["answer"] in found[0] if row["answer"] else found == [""]


def test_the_best_piece_is_found_as_a_loop_finds_it(roles: Tokenizer):
    draw = np.random.default_rng(0)
    examples, places = extractive.windows(ROWS, roles, 48, stride=16)
    scores = [draw.normal(size=(2, len(example.ids))) for example in examples]
    found = extractive.answers(ROWS, places, scores, longest=4)
    for number, row in enumerate(ROWS):
        own = [(place, score) for place, score in zip(places, scores, strict=True) if place.row == number]
        best = max(
            (score[0, place.begin + a] + score[1, place.begin + b], place.spans[a, 0], place.spans[b, 1])
            for place, score in own
            for a in range(len(place.spans))
            for b in range(a, min(a + 4, len(place.spans)))
        )
        none = min(score[0, 0] + score[1, 0] for _, score in own)
        assert found[number] == (row["context"][best[1] : best[2]].strip() if best[0] > none else "")
    assert any(found) and len(examples) > len(ROWS)


def test_packed_windows_keep_their_places(roles: Tokenizer):
    examples, _ = extractive.windows(ROWS, roles, 64, stride=30)
    source = LabelledRows(examples, 128, 4, 0)
    batch = source.rows(np.arange(source.count))
    assert source.count < len(examples)
    for row, owners in enumerate(source.owner.tolist()):
        for place, item in enumerate(owners):
            if item < 0:
                assert batch["token_weight"][row, place] == 0
                continue
            begin = int(batch["picked"][row, place])
            example = examples[item]
            assert batch["tokens"][row, begin : begin + len(example.ids)].tolist() == list(example.ids)
            assert [int(batch[name][row, place]) - begin for name in ("targets", "ends")] == [*example.targets, *example.ends]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": ""}, "question must be a text that is not empty"),
        ({"context": 3}, "context must be a text"),
        ({"answer": None}, "answer must be a text"),
        ({"start": None}, "start must be the number of the context's character"),
        ({"start": -1}, "start must be the number"),
        ({"start": True}, "start must be the number"),
        ({"start": 12}, "at character 12 the context says .*, not 'unbelievable machine'"),
        ({"start": 99999}, "the context says ''"),
    ],
)
def test_bad_rows_are_named(change: dict, said: str):
    assert extractive.wrong(ROWS[0]) == extractive.wrong(ROWS[4]) == extractive.wrong({**ROWS[4], "start": None}) == ""
    assert re.search(said, extractive.wrong({**ROWS[0], **change}))


def test_windows_that_leave_gaps_are_refused(roles: Tokenizer, words: Tokenizer):
    with pytest.raises(ValueError, match=r"row 1: of context 40 its question leaves \d+ tokens for the text, and windows are stride = 128 apart"):
        extractive.windows(ROWS, roles, 40)
    with pytest.raises(ValueError, match="leaves 0 tokens"):
        extractive.windows(ROWS, roles, 8, stride=1)
    with pytest.raises(ValueError, match="cls"):
        extractive.windows(ROWS, words, 400)
