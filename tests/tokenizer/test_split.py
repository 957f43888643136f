"""Pre-tokenization against the one that `transformers` builds for each family."""

import inspect
import random

import pytest
from tokenizers import Regex, pre_tokenizers
from transformers import GPT2Tokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from bessemer.tokenizer import split
from tests.tokenizer.test_kinds import HARD, random_text

MORE = [
    "I'll DON'T 'Twas it's 's 'S",
    "x=1234567;y",
    "a  1 b   22\n 3",
    "\t\t1\n\n  x",
    "foo(bar) [baz]...\n\n",
    " !!\r\n",
    "1\u00b2\u2163x",
    "''s",
    "ſ'ſ",
]


def pieces(cuts: pre_tokenizers.PreTokenizer, text: str) -> list[str]:
    return [piece for piece, _ in cuts.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("gpt-2", lambda: GPT2Tokenizer(vocab={"a": 0}, merges=[]).backend_tokenizer.pre_tokenizer),
        ("qwen2", lambda: Qwen2Tokenizer(vocab={"a": 0}, merges=[]).backend_tokenizer.pre_tokenizer),
        # Llama 3 is converted from a rank file: this class holds its pattern.
        ("llama-3", lambda: llama3()),
        # SmolLM2's tokenizer.json: each digit cut out, then GPT-2's.
        (
            "smollm",
            lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        ),
    ],
)
def test_cuts_are_those_of_the_family(name: str, theirs):
    ours, theirs, draw = split.pre_tokenizer(name), theirs(), random.Random(3)
    for text in [*HARD, *MORE, *(random_text(draw) for _ in range(300))]:
        assert pieces(ours, text) == pieces(theirs, text)


def llama3() -> pre_tokenizers.PreTokenizer:
    pattern = inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def test_one_pattern_cuts_like_the_sequence_it_stands_for():
    """SmolLM's two steps as one regular expression, which WordPiece and tiktoken need."""
    draw = random.Random(4)
    one = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split.SMOLLM), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    for text in [*HARD, *MORE, *(random_text(draw) for _ in range(300)), *("".join(draw.choices(" 1a.\n'", k=12)) for _ in range(2000))]:
        assert pieces(one, text) == pieces(split.pre_tokenizer("smollm"), text)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="split 'llama' is not one of gpt-2, llama-3, qwen2, smollm"):
        split.pre_tokenizer("llama")
