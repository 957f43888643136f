"""The three kinds of tokenizer: any text comes back exactly, `transformers` gives equal ids, training is deterministic."""

import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from bessemer.stages.tokenizer import TokenizerConfig, train
from bessemer.tokenizer import files, split, unigram
from bessemer.tokenizer.pieces import spell
from bessemer.tokenizer.tokenizer import Tokenizer

PARTS = (("ser", "con", "un", "re", "par", "mul"), ("ti", "for", "ma", "lo", "que"), ("ble", "ted", "ing", "sion", "", "ful"))
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "dogs", "while", "json", "strings", *map("".join, itertools.product(*PARTS))]
UNSPACED = ["吾輩は猫である。", "名前はまだ無い。", "どこで生れたか", "とんと見当がつかぬ。", "何でも薄暗い所で", "ภาษาไทยไม่มีช่องว่าง", "ระหว่างคำ"]
HARD = [
    "", " ", "   ", " a", "a ", "  two  spaces ", "\r\n\r\n x\ty\t\t\r", "\n\n\n", "\x00\x7f\x00", "e\u0301\u0301 \u0301", "▁ ▁▁a▁", "\ufffd\ufffe",
    "สวัสดีชาวโลก ", "吾輩は猫である。\n　名前", "السلام عليكم", "👩‍👩‍👧‍👦🎉 🏳️‍🌈\U000e0067", "x" * 3000, "é" * 777, "世" * 500,
    " " * 300 + "b", "\t" * 99,
    "<|im_end|><|endoftext|> [MASK] [CLS] <extra_id_1> <0x0A> </s> <s> <unk> ##a ＃＃b ▅", "don't DON'T 12345678 1,234.5 ½ Ⅷ ١٢٣",
    "\u00a0\u3000\u2028 \x85\u200b", "   def f(x):\n\t\treturn x\n\n\n", "ĠĊÃ©", "ﬁ ǅ ß İ",
]  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "bpe": {},
    "wordpiece": {},
    "unigram": {},
    "bpe smollm": {"split": "smollm"},
    "wordpiece gpt-2": {"split": "gpt-2", "digits": "free"},
    "unigram digits": {"digits": "single"},
}


def texts(seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    lines = [" ".join(draw.choices(WORDS, k=9)).capitalize() + f", {draw.randrange(10**6)}.\n" for _ in range(400)]
    return ["".join(lines), "".join(draw.choices(UNSPACED, k=300))]


def config(name: str, **more: Any) -> TokenizerConfig:
    return TokenizerConfig(**({"vocab": 700, "kind": name.split()[0], "masks": True, "sentinels": 3, "special": ("<|tool|>",)} | KINDS[name] | more))


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    files.save(train(texts(), config(request.param)), made)
    return made


def random_text(draw: random.Random) -> str:
    """Any characters but surrogates, which are no text: most from one block, so that scripts stay together."""
    first = draw.choice([0x20, 0x20, 0xA0, 0x300, 0x400, 0x600, 0xE00, 0x2000, 0x2580, 0x3040, 0x4E00, 0xAC00, 0xFFF0, 0x1F600])
    return "".join(chr(draw.randrange(0xD800)) if draw.random() < 0.1 else chr(first + draw.randrange(96)) for _ in range(draw.randrange(1, 60)))


def test_every_text_comes_back_exactly_and_forges_no_special_token(folder: Path):
    tokenizer = Tokenizer.load(folder)
    lengths, special = tokenizer.token_bytes(), set(tokenizer.special.values())
    draw = random.Random(1)
    for text in [*HARD, *texts(7), *(random_text(draw) for _ in range(300))]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids, skip_special=False) == text
        assert not special & set(ids)
        assert sum(lengths[i] for i in ids) == len(text.encode())
    assert tokenizer.encode_batch(HARD) == [tokenizer.encode(text) for text in HARD]


def test_the_vocabulary_is_as_large_as_asked_for(folder: Path):
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.vocab == 700 == len(set(tokenizer.backend.get_vocab().values()))
    assert sorted(tokenizer.backend.get_vocab().values()) == list(range(700))


def test_transformers_and_tokenizers_give_equal_ids(folder: Path):
    tokenizer, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    bare = Backend.from_file(str(folder / "tokenizer.json"))
    for text in (text for text in HARD if not any(token in text for token in tokenizer.special)):
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text) == bare.encode(text, add_special_tokens=False).ids
        assert theirs.decode(tokenizer.encode(text)) == text
    roles = {"pad": theirs.pad_token_id, "mask": theirs.mask_token_id, "cls": theirs.cls_token_id, "sep": theirs.sep_token_id}
    assert roles == {role: tokenizer.need(role) for role in roles}
    assert theirs.eos_token_id == tokenizer.end_of_text
    assert [theirs.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(3)] == list(tokenizer.sentinels)
    assert theirs("a fox", "dog")["input_ids"] == [
        tokenizer.cls, *tokenizer.encode("a fox"), tokenizer.sep, *tokenizer.encode("dog"), tokenizer.sep
    ]  # fmt: skip


CODE = """
import hashlib, json, sys
from bessemer.stages.tokenizer import TokenizerConfig, train
for kind in ("bpe", "wordpiece", "unigram"):
    print(hashlib.sha256(train(json.loads(sys.argv[1]), TokenizerConfig(vocab=700, kind=kind)).to_str().encode()).hexdigest())
"""


def test_another_process_with_other_threads_learns_the_same_bytes():
    """Hash tables are seeded anew in each process, and sums in threads are grouped by their number: neither may show."""
    ours = [
        hashlib.sha256(train(texts(), TokenizerConfig(vocab=700, kind=kind)).to_str().encode()).hexdigest()
        for kind in ("bpe", "wordpiece", "unigram")
    ]
    environment = {**os.environ, "RAYON_NUM_THREADS": "3", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", CODE, json.dumps(texts())]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=Path(__file__).parent.parent.parent)
    assert found.stdout.split() == ours


def test_unigram_gives_the_likeliest_split(tmp_path: Path):
    """Against a plain search over all splits (Kudo 2018, eq. 3): no split of the text has a higher sum of log-probabilities."""
    backend = train(texts(), config("unigram"))
    vocab = json.loads(backend.to_str())["model"]["vocab"]
    score: dict[str, float] = dict(vocab)
    for text in ("the quick brown fox serializes 123 numbers", "吾輩は猫である。json名前", "zzz\u2581\ttab"):
        spelled = spell(text.encode())
        best = [0.0] + [float("-inf")] * len(spelled)
        for end in range(1, len(best)):
            best[end] = max(best[begin] + score.get(spelled[begin:end], float("-inf")) for begin in range(end))
        found = sum(score[piece] for piece in backend.encode(text).tokens)
        assert found == pytest.approx(best[-1])


def test_unigram_learns_words_that_always_stand_before_a_space():
    """SentencePiece starts from substrings with several surroundings; from whole lines it would never see `fox` as a word of its own."""
    tokens = train(["the fox sees the fox and the dog and a fox while the dog sees it \n" * 50, "".join(texts())], config("unigram"))
    assert {"Ġfox", "Ġdog", "Ġand"} <= set(tokens.get_vocab())


def test_languages_without_spaces_get_pieces_longer_than_a_character():
    tokenizer = Tokenizer(train(texts(), config("unigram")))
    text = "吾輩は猫である。名前はまだ無い。ภาษาไทยไม่มีช่องว่าง"
    assert len(tokenizer.encode(text)) < len(text) / 2


def test_digits_follow_the_policy():
    for name, pieces in {"bpe": ["123", "456", "7"], "bpe smollm": list("1234567"), "unigram digits": list("1234567")}.items():
        tokenizer = Tokenizer(train([*texts(), "1234567 " * 200], config(name)))
        longest = max(len(tokenizer.decode([i])) for i in tokenizer.encode("1234567"))
        assert longest <= max(map(len, pieces))
    assert len(Tokenizer(train([*texts(), "n 1234567 " * 400], config("wordpiece gpt-2"))).encode("n 1234567")) == 2


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_vocabulary_the_corpus_cannot_fill_is_refused(kind: str):
    with pytest.raises(
        ValueError, match=r"vocab 5000 is larger than this corpus allows: its (merges|pieces) end at \d+ entries; ask for fewer or add"
    ):
        train(texts(), config(kind, vocab=5000))
    with pytest.raises(ValueError, match=r"vocab 200 is too small: 256 bytes"):
        config(kind, vocab=200)


def test_unigram_names_the_size_that_the_characters_need():
    many = "".join(chr(0x4E00 + i) for i in range(800)) * 3
    with pytest.raises(ValueError, match=r"vocab 700 is too small: with the bytes and special tokens, the characters of this corpus alone need \d+"):
        train([many], config("unigram"))


def test_the_size_that_is_named_is_the_largest_that_works():
    with pytest.raises(ValueError) as refused:
        train(texts(), config("unigram", vocab=5000))
    most = int(str(refused.value).split("end at ")[1].split()[0])
    assert train(texts(), config("unigram", vocab=most)).get_vocab_size() == most
    with pytest.raises(ValueError, match=f"end at {most} entries"):
        train(texts(), config("unigram", vocab=most + 1))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"split": "llama-3", "digits": "single"}, 'contradicts split = "llama-3", which is "group3"; for "single" choose split qwen2 or smollm'),
        ({"kind": "unigram", "split": "qwen2"}, 'split = "qwen2" contradicts kind = "unigram"'),
        ({"kind": "unigram", "digits": "group3"}, "choose single or free"),
        ({"sentinels": -1}, "sentinels -1 is negative"),
        ({"special": ("<|im_end|>",)}, "'<|im_end|>' is there already"),
        ({"special": (" ",)}, "' ' is empty"),
    ],
)
def test_contradictions_are_refused_before_any_work(given: dict[str, Any], said: str):
    with pytest.raises(ValueError) as refused:
        TokenizerConfig(**given)
    assert said in str(refused.value)


def test_more_text_than_the_sample_is_drawn_from_evenly(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unigram, "SAMPLE", 100)
    drawn = unigram._sample(str(i) for i in range(10_000))
    assert drawn == unigram._sample(str(i) for i in range(10_000))
    assert len(set(drawn)) == 100 and 4000 < sum(map(int, drawn)) / 100 < 6000


def test_wholes_of_words(folder: Path):
    tokenizer = Tokenizer.load(folder)
    starts = tokenizer.word_starts()
    assert len(starts) == tokenizer.vocab
    ids = tokenizer.encode(" quixotic strings, objects")
    words: list[list[int]] = []
    for i in ids:
        if starts[i] or not words:
            words.append([])
        words[-1].append(i)
    assert [tokenizer.decode(word) for word in words] == [" quixotic", " strings", ",", " objects"]


def test_the_file_says_which_split_it_uses():
    for name in ("gpt-2", "llama-3", "qwen2", "smollm"):
        backend = train(texts(), TokenizerConfig(vocab=400, split=name))
        assert split.name_of(json.loads(backend.to_str())) == name
