"""Bulk encoding by tiktoken gives the ids of `tokenizers`, or is refused."""

import json
import sys
import unicodedata

import pytest
from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as Backend

from bessemer.stages.tokenizer import TokenizerConfig, train
from bessemer.tokenizer import bulk
from bessemer.tokenizer import tokenizer as module
from bessemer.tokenizer.pieces import spell
from bessemer.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.test_kinds import HARD, texts


def made(**given) -> Tokenizer:
    return Tokenizer(train(texts(), TokenizerConfig(**({"vocab": 600} | given))))


def changed(layout: dict) -> Backend:
    return Tokenizer(Backend.from_str(json.dumps(layout))).backend


@pytest.mark.parametrize("split", ["gpt-2", "llama-3", "qwen2", "smollm"])
def test_ids_are_equal(split: str):
    tokenizer = made(split=split)
    fast = bulk.Bulk(tokenizer.backend)
    many = [*HARD, *texts(5), "x" * 2000, " " * 20_000 + "a", "\n \t" * 10_000]
    assert fast(many) == [tokenizer.encode(text) for text in many]


@pytest.mark.slow
def test_a_million_white_characters_do_not_break_it():
    """tiktoken's engine alone ends in a panic here."""
    tokenizer = made()
    many = [" " * 1_200_000 + "a", "\n \t" * 400_000, "b"]
    assert bulk.Bulk(tokenizer.backend)(many) == [tokenizer.encode(text) for text in many]


@pytest.mark.slow
def test_every_character_is_cut_alike():
    """Two engines of regular expressions, two tables of Unicode: each character between letters, digits, spaces and signs."""
    tokenizer = made()
    fast = bulk.Bulk(tokenizer.backend)
    assigned = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Co", "Cs")]
    many = ["".join(f"a{c}b 1{c}1 {c} !{c}\n{c}" for c in assigned[begin : begin + 50]) for begin in range(0, len(assigned), 50)]
    assert fast(many) == [found.ids for found in tokenizer.backend.encode_batch_fast(many)]


def test_bytes_that_a_vocabulary_lacks_are_left_to_tokenizers():
    """SmolLM2's has no token for six control characters: they vanish."""
    layout = json.loads(made().backend.to_str())
    vocab = layout["model"]["vocab"]
    layout["model"]["vocab"] = {piece: i for piece, i in vocab.items() if piece not in map(spell, (b"\x04", b"\x13", b"\xf1"))}
    tokenizer = Tokenizer(Backend.from_str(json.dumps(layout)))
    many = [*HARD, "the qu\x04ick f\x13ox", "\x04", "\U00050000 a", *texts(5)]
    assert bulk.Bulk(tokenizer.backend)(many) == [tokenizer.encode(text) for text in many]
    assert tokenizer.decode(tokenizer.encode("the qu\x04ick")) == "the quick"


def test_batches_switch_to_it_once_it_pays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MANY", 1000)
    tokenizer = made()
    assert tokenizer.encode_batch(["a fox"]) == [tokenizer.encode("a fox")] and tokenizer._bulk is None
    many = texts(9) * 2
    assert tokenizer.encode_batch(many) == [tokenizer.encode(text) for text in many]
    assert tokenizer._bulk is not None


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_other_kinds_have_none_and_say_nothing(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(module, "MANY", 1000)
    tokenizer = made(kind=kind)
    capsys.readouterr()
    assert tokenizer.encode_batch(texts(2)) == [tokenizer.encode(text) for text in texts(2)]
    assert tokenizer._bulk is None and capsys.readouterr().err == ""


def test_what_cannot_be_run_by_it_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(module, "MANY", 1000)
    tokenizer = made()
    tokenizer.backend.normalizer = normalizers.Lowercase()
    for _ in range(3):
        assert tokenizer.encode_batch(texts(2)) == [tokenizer.encode(text) for text in texts(2)]
    assert capsys.readouterr().err.count("encoding with tokenizers, not the faster tiktoken: it changes texts before they are cut") == 1


def test_without_tiktoken_it_falls_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(bulk.Refused, match="tiktoken is not installed"):
        bulk.Bulk(made().backend)


def test_what_ranks_cannot_say_is_refused():
    layout = json.loads(made().backend.to_str())
    normal = made().backend
    normal.normalizer = normalizers.Lowercase()
    added = made().backend
    added.add_tokens([AddedToken("foxes", special=False)])
    merges = layout["model"]["merges"]
    swapped = layout | {"model": layout["model"] | {"merges": [merges[-1], *merges[1:-1], merges[0]]}}
    vocab = layout["model"]["vocab"]
    unreached = layout | {"model": layout["model"] | {"vocab": vocab | {"qzqz": len(vocab)}}}
    for backend, said in (
        (normal, "changes texts before they are cut"),
        (added, "added tokens that are not special"),
        (changed(swapped), "not in the order of its merges"),
        (changed(unreached), "never produces its token 'qzqz'"),
    ):
        with pytest.raises(bulk.Refused, match=said):
            bulk.Bulk(backend)


def test_cuts_that_differ_are_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bulk.split, "pattern", lambda layout: r"\S+|\s+")
    with pytest.raises(bulk.Refused, match="its ids differ for"):
        bulk.Bulk(made().backend)
