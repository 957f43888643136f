"""Tokenizers of other makes give the ids their own libraries give."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, BertTokenizer, GPT2Tokenizer

from bessemer.stages.tokenizer import TokenizerConfig, train
from bessemer.tokenizer import bulk, files, foreign, split
from bessemer.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.test_kinds import HARD, texts

# SentencePiece's normaliser works on characters, that of `tokenizers` on graphemes: they part where marks or half-width signs combine.
COMBINING = [text for text in HARD if "\u0301" in text or "\r\n" in text or "İ" in text]
LINES = "".join(texts()).splitlines()
MODELS: dict[str, dict[str, Any]] = {
    "unigram": {},
    "unigram without bytes": {"byte_fallback": False},
    "unigram spaces kept": {"remove_extra_whitespaces": False, "add_dummy_prefix": False, "normalization_rule_name": "identity"},
    "unigram across spaces": {"split_by_whitespace": False, "normalization_rule_name": "nfkc_cf"},
    "unigram own pieces": {"user_defined_symbols": ["<sep>", "fox"]},
    "bpe": {},
    "bpe identity": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "bpe own pieces": {"user_defined_symbols": ["<sep>", "fox"]},
}


def sentencepiece_file(path: Path, name: str) -> Path:
    given = {"byte_fallback": True, "vocab_size": 620, "character_coverage": 0.999} | MODELS[name]
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES), model_writer=file, model_type=name.split()[0], minloglevel=2, hard_vocab_limit=False, **given
        )
    return path


@pytest.mark.parametrize("name", MODELS)
def test_a_sentencepiece_model_gives_equal_ids(name: str, tmp_path: Path):
    path = sentencepiece_file(tmp_path / "spiece.model", name)
    theirs, ours = sentencepiece.SentencePieceProcessor(model_file=str(path)), Tokenizer.load(path)
    exact = "identity" in str(MODELS[name])
    for text in [*HARD, "a fox<sep>and foxes <sep> x", "Hello  World  ", *LINES[:50]]:
        # Unknown characters in a row are one token; where a special token is spelled, ours are cut apart (see the test on forging below).
        if (text in COMBINING and not exact) or ("</s>" in text and name == "unigram without bytes"):
            continue
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        if "▁" not in text and 0 not in ids:  # SentencePiece shows what is unknown as a sign, and takes off spaces that were ▁ in the text
            assert ours.decode(ids) == theirs.decode(ids)
    assert (ours.end_of_text, ours.unk) == (theirs.eos_id(), theirs.unk_id())
    assert Tokenizer.load(tmp_path).encode(LINES[0]) == theirs.encode(LINES[0])


def test_a_converted_model_opens_in_transformers_with_equal_ids(tmp_path: Path):
    path = sentencepiece_file(tmp_path / "tokenizer.model", "bpe")
    backend, settings, template = foreign.read(path)
    files.save(backend, tmp_path / "made", settings, template)
    ours, theirs = Tokenizer.load(tmp_path / "made"), AutoTokenizer.from_pretrained(tmp_path / "made")
    for text in ("the quick fox", " two  spaces", "名前はまだ無い。"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert (theirs.eos_token, theirs.bos_token, theirs.unk_token) == ("</s>", "<s>", "<unk>")


def test_a_tiktoken_file_gives_equal_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ranks from a trained tokenizer, the 256 bytes first, as rank files have them."""
    layout = json.loads(train(texts(), TokenizerConfig(vocab=700)).to_str())
    ranks = {token: rank - 3 for token, rank in bulk._ranks(layout).items()}
    lines = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
    # The real ones have up to 200 thousand ranks; these end sooner.
    monkeypatch.setattr(foreign, "RANK_FILES", {name: (pattern, 710) for name, (pattern, _) in foreign.RANK_FILES.items()})
    for name, pattern in (("cl100k_base", split.LLAMA3), ("gpt2", split.GPT2), ("o200k_base", foreign.O200K)):
        theirs = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        (tmp_path / f"{name}.tiktoken").write_bytes(lines)
        if name == "gpt2":
            ours = Tokenizer.load(tmp_path / "gpt2.tiktoken")
            assert (ours.end_of_text, ours.vocab) == (710, 711)
        (tmp_path / "other.model").write_bytes(lines)  # as Llama 3 calls its rank file
        path = tmp_path / (f"{name}.tiktoken" if name != "cl100k_base" else "other.model")
        ours = Tokenizer.load(path)
        for text in [*HARD, *LINES[:50]]:
            assert ours.encode(text) == theirs.encode_ordinary(text)
            assert ours.decode(ours.encode(text), skip_special=False) == text
        assert bulk.Bulk(ours.backend, LINES)(HARD) == [theirs.encode_ordinary(text) for text in HARD]


def test_the_vocabulary_files_of_gpt2_open(tmp_path: Path):
    layout = json.loads(train(texts(), TokenizerConfig(vocab=600, split="gpt-2")).to_str())
    merges = [tuple(merge) for merge in layout["model"]["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(layout["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)))
    ours, theirs = Tokenizer.load(tmp_path), GPT2Tokenizer(vocab=layout["model"]["vocab"], merges=merges)
    for text in (text for text in HARD if "<|" not in text):
        assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.end_of_text == theirs.eos_token_id and ours.end_of_turn is None


def test_the_vocabulary_file_of_bert_opens(tmp_path: Path):
    entries = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz,.!猫",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
        "fox",
        "the",
        "##ing",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n")
    for lower in (True, False):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        ours, theirs = Tokenizer.load(tmp_path), BertTokenizer(vocab={entry: i for i, entry in enumerate(entries)}, do_lower_case=lower)
        for text in ("The foxes, jumping!", "Étude 猫猫", "  ", "a\tb"):
            assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert (ours.cls, ours.sep, ours.pad, ours.mask, ours.unk, ours.begin, ours.end_of_text) == (2, 3, 0, 4, 1, 2, 3)
        assert not set(ours.encode("[SEP] [CLS]")) & {2, 3}
    starts = ours.word_starts()
    assert [starts[entries.index(entry)] for entry in ("fox", "##ing", "猫", ",")] == [True, False, True, True]


def test_text_cannot_forge_what_a_vocabulary_holds_as_a_piece(tmp_path: Path):
    """In T5's file </s> is a piece like any other, and <0x0A> a byte: neither may come out of text that spells it."""
    ours = Tokenizer.load(sentencepiece_file(tmp_path / "spiece.model", "unigram"))
    assert ours.backend.token_to_id("</s>") == ours.end_of_text
    for text in ("</s>", "a </s></s>b", "<0x0A>", "<s><unk>"):
        ids = ours.encode(text)
        assert not set(ids) & {*ours.special.values(), ours.backend.token_to_id("<0x0A>")}
        assert ours.decode(ids) == text


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("tokenizer.json", b"{", "cannot be read as a tokenizer"),
        ("tokenizer.json", b'{"model": {"type": "none"}}', "cannot be read as a tokenizer"),
        ("x.model", b"", "cannot be read as a tokenizer"),
        ("x.model", b"\xff\xfe\x00binary" * 9, "cannot be read as a tokenizer"),
        ("x.tiktoken", b"YQ== 0\nnot base64 at all\n", "line 2 is no token in base64 with its rank"),
        ("x.tiktoken", b"YQ== 0\n", "not all 256 bytes have a rank"),
    ],
)
def test_damaged_files_are_named(name: str, data: bytes, said: str, tmp_path: Path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=said):
        Tokenizer.load(tmp_path / name)


def test_a_cut_off_model_is_named(tmp_path: Path):
    whole = sentencepiece_file(tmp_path / "a.model", "bpe").read_bytes()
    (tmp_path / "b.model").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"b\.model cannot be read as a tokenizer: it is cut off"):
        Tokenizer.load(tmp_path / "b.model")


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no tokenizer.json, nor"):
        Tokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such tokenizer"):
        Tokenizer.load(tmp_path / "x.json")


def test_ends_are_read_from_settings(tmp_path: Path):
    """A chat model's eos_token is its end of turn; its documents ended with another token."""
    made = train(texts(), TokenizerConfig(vocab=400))
    files.save(made, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>"}))
    chat = Tokenizer.load(tmp_path)
    assert (chat.end_of_text, chat.end_of_turn, chat.begin) == (chat.special["<|endoftext|>"], chat.special["<|im_end|>"], None)
    assert chat.ends == [chat.end_of_turn, chat.end_of_text]
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}")
    assert Tokenizer.load(tmp_path).end_of_turn == chat.special["<|im_end|>"]
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}")
    plain = Tokenizer.load(tmp_path)
    assert plain.end_of_turn is None and plain.ends == [plain.end_of_text]
    bare = Backend.from_str(made.to_str())
    for token in ("pad", "mask", "sentinels"):
        with pytest.raises(ValueError, match=f"this tokenizer has no {token} token; train one with (masks = true|sentinels = 100)"):
            Tokenizer(bare).need(token)
