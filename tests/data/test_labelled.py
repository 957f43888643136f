"""Rows with classes and tags: frames, places, cuts, packing; a cut against transformers'."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bessemer.data import extractive, labelled
from bessemer.data.labelled import Example, LabelledRows
from bessemer.tokenizer import bpe, special, unigram, wordpiece
from bessemer.tokenizer.tokenizer import Tokenizer
from tests.data.conftest import SENTENCES

TEXTS = [{"text": sentence, "label": sentence.split()[1]} for sentence in SENTENCES]
PAIRS = [{"text": SENTENCES[n], "other": SENTENCES[-n] * (n % 4), "label": n % 2} for n in range(1, 20)]
TAGGED = [
    {"words": ["Ann", "Lee", "visits", "unbelievable", "Rome"], "tags": ["B-PER", "I-PER", "O", "O", "B-LOC"]},
    {"words": ["No"], "tags": ["O"]},
]


def test_a_text_stands_between_cls_and_sep_and_its_class_at_cls(roles: Tokenizer):
    labels = labelled.classes(row["label"] for row in TEXTS)
    assert labels == ["engineer", "farmer", "teacher", "uncle"]
    examples, cut = labelled.texts(TEXTS, labels, roles, 64)
    assert cut == 0
    for row, example in zip(TEXTS, examples, strict=True):
        assert example.ids == [roles.cls, *roles.encode(row["text"]), roles.sep] and set(example.types) == {0}
        assert example.picked == [0] and labels[example.targets[0]] == row["label"]
    at_end, _ = labelled.texts(TEXTS, labels, roles, 64, last=True)
    assert all(example.ids[example.picked[0]] == roles.sep and example.picked[0] == len(example.ids) - 1 for example in at_end)


def test_without_cls_and_sep_a_text_ends_with_the_end_of_text(words: Tokenizer):
    example = labelled.texts([{"text": "a b", "other": "c", "label": "x"}], ["x", "y"], words, 64, last=True)[0][0]
    assert example.ids == [*words.encode("a b"), words.end_of_text, *words.encode("c"), words.end_of_text]
    assert example.ids[example.picked[0]] == words.end_of_text and example.types[-1] == 1


@pytest.mark.parametrize("context", [64, 21, 20, 8])
def test_pairs_are_framed_and_cut_like_transformers(context: int, roles: Tokenizer):
    """transformers' longest_first, which takes tokens from the longer text one by one; the shorter of equals may differ by one token."""
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "eos_token": "<|endoftext|>"}
    theirs = PreTrainedTokenizerFast(tokenizer_object=roles.backend, **names)
    examples, cut = labelled.texts(PAIRS, ["0", "1"], roles, context)
    longer = 0
    for row, example in zip(PAIRS, examples, strict=True):
        given = (row["text"], row["other"]) if row["other"] else (row["text"],)
        full, short = theirs(*given), theirs(*given, truncation="longest_first", max_length=context)
        longer += len(full["input_ids"]) > context
        assert len(example.ids) == len(short["input_ids"])
        if len(full["input_ids"]) <= context:
            assert example.ids == full["input_ids"]
        # Where the first text ends.
        ends = [ids.index(roles.sep) for ids in (list(example.ids), short["input_ids"])]
        assert abs(ends[0] - ends[1]) <= 1 and list(example.types) == [0] * (ends[0] + 1) + [1] * (len(example.ids) - ends[0] - 1)
        first, second = roles.encode(row["text"]), roles.encode(row["other"])
        assert list(example.ids[1 : ends[0]]) == first[: ends[0] - 1]
        assert list(example.ids[ends[0] + 1 : -1]) == second[: len(example.ids) - ends[0] - 2]
    assert cut == longer and (cut > 0) == (context < 64)


def test_a_tag_stands_at_the_first_token_of_its_word(roles: Tokenizer):
    labels = labelled.classes(tag for row in TAGGED for tag in row["tags"])
    examples, cut = labelled.tags(TAGGED, labels, roles, 64)
    assert cut == 0 and labels == ["B-LOC", "B-PER", "I-PER", "O"]
    for row, example in zip(TAGGED, examples, strict=True):
        assert [labels[target] for target in example.targets] == row["tags"]
        pieces = [
            roles.decode(example.ids[begin:end]) for begin, end in zip(example.picked, [*example.picked[1:], len(example.ids) - 1], strict=True)
        ]
        assert [piece.strip() for piece in pieces] == row["words"]


@pytest.mark.parametrize("odd", ["\u0301", "日本語", "👩‍🔬", "İ", "a\u200bb", "[CLS]", "\x00"])
def test_tags_of_odd_words_keep_their_places(odd: str, roles: Tokenizer):
    row = {"words": ["the", odd, "lantern", odd, "sees"], "tags": ["A", "B", "C", "D", "E"]}
    (example,), _ = labelled.tags([row], list("ABCDE"), roles, 64)
    assert [roles.decode(example.ids[example.picked[i] :]).strip().split(" ")[0] for i in (0, 2, 4)] == ["the", "lantern", "sees"]
    assert len(example.picked) == 5 and list(example.targets) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("kind", "vocab"), [(wordpiece, 600), (unigram, 316)])
def test_places_are_right_for_every_kind_of_tokenizer(kind: ModuleType, vocab: int, tmp_path: Path):
    """Tags at their words' first tokens, and answers read back from their places."""
    bpe.save(kind.train([" ".join(SENTENCES)] * 3, vocab, special=special.tokens(masks=True)), tmp_path)
    words = Tokenizer.load(tmp_path)
    row = {"words": ["the", "日本語", "lantern", "👩‍🔬", "unbelievable"], "tags": list("ABCDE")}
    (example,), _ = labelled.tags([row], list("ABCDE"), words, 128)
    ends = [*example.picked[1:], len(example.ids) - 1]
    assert [words.decode(example.ids[begin:end]).strip() for begin, end in zip(example.picked, ends, strict=True)] == row["words"]
    text = SENTENCES[0] + " Grüße an die 世界! 🎉"
    rows = [{"question": "What?", "context": text, "answer": answer, "start": text.index(answer)} for answer in ("machine", "世界", "A farmer", "🎉")]
    examples, places = extractive.windows(rows, words, 400)
    scores = [np.zeros((2, len(example.ids))) for example in examples]
    for example, score in zip(examples, scores, strict=True):
        score[0, example.targets[0]] = score[1, example.ends[0]] = 1.0
    assert extractive.answers(rows, places, scores) == [row["answer"] for row in rows]


def test_tagged_words_that_do_not_fit_are_cut_off(roles: Tokenizer):
    row = {"words": SENTENCES[0].split() * 4, "tags": ["O", "B-X"] * (2 * len(SENTENCES[0].split()))}
    (whole,), cut = labelled.tags([row], ["B-X", "O"], roles, 200)
    assert cut == 0 and len(whole.picked) == len(row["words"])
    (short,), cut = labelled.tags([row], ["B-X", "O"], roles, 20)
    assert cut == 1 and len(short.ids) == 20 and short.ids[-1] == roles.sep
    kept = len(short.picked)
    assert short.picked == whole.picked[:kept] and max(short.picked) < 19 <= whole.picked[kept] and short.targets == whole.targets[:kept]


def test_packed_examples_by_hand():
    """Examples of three, two and four tokens in rows of five: the third alone, the first two together."""
    examples = [Example([1, 5, 2], [0, 0, 0], [0], [7]), Example([1, 2], [0, 1], [0, 1], [8, 9]), Example([1, 6, 6, 2], [0, 0, 1, 1], [3], [4])]
    source = LabelledRows(examples, 5, 1, 0)
    batch = {name: column.tolist() for name, column in source.rows(np.array([0, 1])).items()}
    assert batch["tokens"] == [[1, 6, 6, 2, 0], [1, 5, 2, 1, 2]] and batch["segment"] == [[1, 1, 1, 1, 0], [1, 1, 1, 2, 2]]
    assert batch["at"] == [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]] and batch["types"] == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    assert batch["picked"] == [[3, 0, 0], [0, 3, 4]] and batch["targets"] == [[4, 0, 0], [7, 8, 9]]
    assert batch["token_weight"] == [[1, 0, 0], [1, 1, 1]] and source.owner.tolist() == [[2, -1, -1], [0, 1, 1]]
    assert "ends" not in batch and source.fill == 0.9


def test_every_example_weighs_once(roles: Tokenizer):
    labels = labelled.classes(row["label"] for row in TEXTS)
    examples, _ = labelled.texts(TEXTS, labels, roles, 64)
    source = LabelledRows(examples, 64, 4, 3)
    batch = source.rows(np.arange(source.count))
    used = torch.from_numpy(source.owner >= 0)
    assert sorted(source.owner[source.owner >= 0]) == list(range(len(TEXTS))) and torch.equal(used.float(), batch["token_weight"])
    assert (batch["tokens"].gather(1, batch["picked"])[used] == roles.cls).all()
    assert batch["targets"][used].tolist() == [examples[item].targets[0] for item in source.owner[source.owner >= 0]]
    assert all(torch.equal(column, LabelledRows(examples, 64, 4, 3)(9)[name]) for name, column in source(9).items())


@pytest.mark.parametrize(
    ("check", "row", "said"),
    [
        (labelled.wrong_text, {"label": "x"}, "text must be a text"),
        (labelled.wrong_text, {"text": "a", "label": None}, "label must be a word or a whole number"),
        (labelled.wrong_text, {"text": "a", "label": 0.5}, "label must be a word or a whole number"),
        (labelled.wrong_text, {"text": "a", "other": 3, "label": "x"}, "other must be a text"),
        (labelled.wrong_tags, {"words": ["a"]}, "tags must be a list of words"),
        (labelled.wrong_tags, {"words": ["a", " "], "tags": ["O", "O"]}, "words must be a list of words"),
        (labelled.wrong_tags, {"words": ["a", "b"], "tags": ["O"]}, "there are 2 words and 1 tags"),
        (labelled.wrong_tags, {"words": [], "tags": []}, "at least one"),
        (labelled.wrong_tags, {"words": ["a", "b"], "tags": ["O", "I-PER"]}, "word 'b' has tag I-PER after O: what begins must have B-PER"),
        (labelled.wrong_tags, {"words": ["a", "b"], "tags": ["B-LOC", "I-PER"]}, "I-PER after B-LOC"),
    ],
)
def test_bad_rows_are_named(check, row: dict, said: str, tmp_path: Path):
    good = {"text": "a", "label": 1, "words": ["a", "b", "c"], "tags": ["B-PER", "I-PER", "I-PER"]}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(ValueError, match=rf"rows\.jsonl: row 2: .*{said}"):
        labelled.read(tmp_path / "rows.jsonl", check)
    (tmp_path / "rows.jsonl").write_text(json.dumps(good))
    assert labelled.read(tmp_path / "rows.jsonl", check) == [good]
    (tmp_path / "rows.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no rows"):
        labelled.read(tmp_path / "rows.jsonl", check)


def test_labels_that_teach_nothing_are_refused(roles: Tokenizer):
    with pytest.raises(ValueError, match=r"one label only \(x\)"):
        labelled.classes(["x", "x"])
    with pytest.raises(ValueError, match=r"row 2: label 'z' is not one of the training rows' \(x, y\)"):
        labelled.texts([{"text": "a", "label": "x"}, {"text": "a", "label": "z"}], ["x", "y"], roles, 64)
    with pytest.raises(ValueError, match="context 3 has no room"):
        labelled.texts([{"text": "a", "other": "b", "label": "x"}], ["x", "y"], roles, 3)
