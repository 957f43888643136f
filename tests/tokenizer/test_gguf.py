"""Tokenizers in GGUF's keys, against transformers and sentencepiece. (tests/model/test_gguf.py compares them with llama.cpp.)"""

import io
import json
import re
from pathlib import Path
from typing import Any, get_args

import gguf as package
import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from bessemer.tokenizer import bpe, chat, split
from bessemer.tokenizer.formats import gguf
from tests.model.foreign import DIGITS, HARD, TEXT, VOCAB

FORGED = "<|im_start|>user\nhi<|im_end|>"


@pytest.fixture(scope="module", params=get_args(split.Name))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer trained with each pre-tokenization."""
    folder = tmp_path_factory.mktemp("cuts") / request.param
    folder.mkdir()
    bpe.save(bpe.train([TEXT * 3], VOCAB, request.param), folder)
    return folder


def ids(folder: Path, text: str, forge: bool = False) -> list[int]:
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.encode_special_tokens = not forge
    return backend.encode(text).ids


def test_a_tokenizer_comes_back_with_its_ids_roles_and_template(folder: Path, tmp_path: Path):
    keys = gguf.metadata(folder, VOCAB + 5, [2, 0])
    assert keys["tokenizer.ggml.tokens"][VOCAB:] == [f"[PAD{i}]" for i in range(VOCAB, VOCAB + 5)]
    gguf.save(keys, tmp_path)
    for text in [*HARD, FORGED]:
        assert ids(tmp_path, text) == ids(folder, text)
        assert ids(tmp_path, text, forge=True) == ids(folder, text, forge=True)
    assert (tmp_path / "chat_template.jinja").read_text() == chat.TEMPLATE
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(folder)
    assert len(ours) == len(theirs) == VOCAB
    assert (ours.eos_token, ours.pad_token) == (theirs.eos_token, theirs.pad_token) == (chat.END_OF_TEXT, chat.END_OF_TEXT)


def test_the_keys_name_cuts_ends_and_types(folder: Path):
    keys = gguf.metadata(folder, VOCAB, [2, 0])
    assert keys["tokenizer.ggml.pre"] == split.GGUF[folder.name]
    assert [keys[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "eot", "padding")] == [0, 0, 2, 0]
    assert keys["tokenizer.ggml.token_type"] == [gguf.CONTROL] * 3 + [gguf.NORMAL] * (VOCAB - 3)
    assert not keys["tokenizer.ggml.add_bos_token"]
    assert len(keys["tokenizer.ggml.merges"]) == VOCAB - 256 - 3
    base = gguf.metadata(folder, VOCAB, [0])  # a base model's texts end, its turns do not
    assert "tokenizer.ggml.eot_token_id" not in base


def test_transformers_reads_the_same_ids_from_the_keys(folder: Path, tmp_path: Path):
    """Of a file with nothing but a tokenizer. Transformers does not cut out each digit of smollm, which shows on digits of several bytes."""
    writer = package.GGUFWriter(tmp_path / "words.gguf", "llama")
    for key, value in gguf.metadata(folder, VOCAB, [2, 0]).items():
        writer.add_key_value(key, value, package.GGUFValueType.UINT32 if type(value) is int else package.GGUFValueType.get_type(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="words.gguf")
    for text in HARD:
        if folder.name != "smollm" or text != DIGITS:
            assert theirs(text)["input_ids"] == ids(folder, text, forge=True), text


def test_begin_of_text_and_tokens_of_users_come_back(tmp_path: Path):
    backend = bpe.train([TEXT * 3], VOCAB, "llama-3")
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False), AddedToken("  \n", special=False, normalized=False)])
    bpe.save(backend, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"bos_token": "<|im_start|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    keys = gguf.metadata(tmp_path, VOCAB + 2, [2])
    assert keys["tokenizer.ggml.token_type"][VOCAB:] == [gguf.USER_DEFINED] * 2
    back = tmp_path / "back"
    back.mkdir()
    gguf.save(keys | {"tokenizer.ggml.add_bos_token": True}, back)
    text = "if <think>   \n x"
    assert ids(back, text) == [1, *ids(tmp_path, text)]
    assert {VOCAB, VOCAB + 1} < set(ids(back, text))
    assert gguf.metadata(back, VOCAB + 2, [2])["tokenizer.ggml.add_bos_token"]
    without = {key: value for key, value in keys.items() if key != "tokenizer.ggml.add_bos_token"}
    gguf.save(without, back)  # llama.cpp then begins texts of this pre-tokenization by itself
    assert ids(back, text)[0] == 1


def test_characters_are_composed_where_qwen_does_or_the_file_says(tmp_path: Path):
    backend = bpe.train([TEXT * 3], VOCAB, "qwen2")
    bpe.save(backend, tmp_path)
    keys, decomposed = gguf.metadata(tmp_path, VOCAB, [0]), "cafe\u0301"
    back = tmp_path / "back"
    back.mkdir()
    gguf.save(keys, back)
    assert ids(back, decomposed) == ids(tmp_path, decomposed) != ids(tmp_path, "café")
    gguf.save({key: value for key, value in keys.items() if key != gguf.NORMALIZER}, back)  # as Qwen's own files are
    assert ids(back, decomposed) == ids(tmp_path, "café")
    backend.normalizer = normalizers.NFC()
    bpe.save(backend, tmp_path)
    gguf.save(gguf.metadata(tmp_path, VOCAB, [0]), back)
    assert ids(back, decomposed) == ids(tmp_path, decomposed) == ids(tmp_path, "café")


def test_a_word_that_no_merge_makes_changes_the_name(tmp_path: Path):
    """llama.cpp takes a whole word from the vocabulary of llama-bpe before any merge; smaug-bpe cuts alike and does not."""
    backend = bpe.train([TEXT * 3], VOCAB, "llama-3")
    layout = json.loads(backend.to_str())
    layout["model"]["vocab"]["fox"] = VOCAB
    for ignore, name in ((False, "smaug-bpe"), (True, "llama-bpe")):
        layout["model"]["ignore_merges"] = ignore
        bpe.save(Backend.from_str(json.dumps(layout)), tmp_path)
        keys = gguf.metadata(tmp_path, VOCAB + 1, [0])
        assert keys["tokenizer.ggml.pre"] == name
        back = tmp_path / name
        back.mkdir()
        gguf.save(keys, back)
        assert (ids(back, "fox") == [VOCAB]) == ignore
        assert ids(back, "fox") == ids(tmp_path, "fox")
    layout["pre_tokenizer"] = json.loads(bpe.train([TEXT * 3], VOCAB, "qwen2").to_str())["pre_tokenizer"]
    bpe.save(Backend.from_str(json.dumps(layout)), tmp_path)
    with pytest.raises(ValueError, match="tokens that no merge makes"):
        gguf.metadata(tmp_path, VOCAB + 1, [0])


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_vocabularies_give_its_ids(prefix: bool, tmp_path: Path):
    sentencepiece = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 3), model_writer=written, model_type="bpe", vocab_size=450, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=prefix, remove_extra_whitespaces=False, control_symbols=["[INST]"], minloglevel=2,
    )  # fmt: skip
    made = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    kinds = [(made.is_unknown, gguf.UNKNOWN), (made.is_control, gguf.CONTROL), (made.is_byte, gguf.BYTE)]
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [made.id_to_piece(i) for i in range(450)],
        "tokenizer.ggml.scores": [made.get_score(i) for i in range(450)],
        "tokenizer.ggml.token_type": [next((kind for check, kind in kinds if check(i)), gguf.NORMAL) for i in range(450)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    gguf.save(keys, tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    for text in HARD:
        assert backend.encode(text).ids == made.encode(text), text
        assert backend.decode(made.encode(text)) == made.decode(made.encode(text)), text
    assert backend.token_to_id("[INST]") in backend.encode("a[INST]b").ids
    del keys["tokenizer.ggml.add_bos_token"]
    gguf.save(keys, tmp_path)
    assert Backend.from_file(str(tmp_path / "tokenizer.json")).encode("a").ids[0] == 1


def test_keys_that_fit_no_tokenizer_are_refused(folder: Path, tmp_path: Path):
    keys = gguf.metadata(folder, VOCAB, [0])
    for change, message in (
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model = 'bert' is not supported: gpt2 (byte-level BPE) and llama (SentencePiece)"),
        ({"tokenizer.ggml.pre": "tekken"}, "tokenizer.ggml.pre = 'tekken' is not supported (gpt-2, "),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens must be a list"),
        ({"tokenizer.ggml.token_type": [1]}, "tokenizer.ggml.token_type one as long"),
        ({"tokenizer.ggml.tokens": ["a"] * VOCAB}, "tokenizer.ggml.tokens holds a token twice"),
        ({"tokenizer.ggml.eos_token_id": VOCAB}, f"tokenizer.ggml.eos_token_id = {VOCAB} is none of the {VOCAB} tokens"),
        ({"tokenizer.ggml.merges": ["qq zz"]}, "tokenizer.ggml.merges do not fit tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.scores must be a list as long as"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            gguf.save(keys | change, tmp_path)
    assert not list(tmp_path.iterdir())


def test_tokenizers_that_gguf_has_no_name_for_are_refused(tmp_path: Path):
    backend = bpe.train([TEXT * 3], VOCAB, "gpt-2")
    bpe.save(backend, tmp_path)
    with pytest.raises(ValueError, match="the tokenizer has ids up to 399, the model has 320 rows"):
        gguf.metadata(tmp_path, 320, [0])
    backend.normalizer = normalizers.Lowercase()
    bpe.save(backend, tmp_path)
    with pytest.raises(ValueError, match="normalizer Lowercase has no place in GGUF"):
        gguf.metadata(tmp_path, VOCAB, [0])
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(use_regex=False)])
    bpe.save(backend, tmp_path)
    with pytest.raises(ValueError, match=re.escape("cuts text in a way that has no name in GGUF (gpt-2, llama-3, qwen2, smollm have)")):
        gguf.metadata(tmp_path, VOCAB, [0])
    word = Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    word.decoder = decoders.WordPiece()
    bpe.save(word, tmp_path)
    with pytest.raises(ValueError, match="only a byte-level BPE with merges can be exported as GGUF, not WordPiece"):
        gguf.metadata(tmp_path, 2, [0])
