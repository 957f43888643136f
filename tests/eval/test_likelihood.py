"""Batched, windowed log-probabilities against a loop that asks the model for one token at a time."""

import math
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch

from bessemer.data import tokens as token_file
from bessemer.eval import choice, likelihood, perplexity
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.tokenizer import bpe
from bessemer.tokenizer.tokenizer import Tokenizer

TINY = ModelConfig(vocab=300, width=32, depth=2, heads=2, kv_heads=1, head_width=16, hidden=48, context=16)


@pytest.fixture(scope="module")
def model() -> Model:
    model = Model(TINY)
    initialise(model, 0)
    for weight in model.parameters():
        weight.data *= 4  # far from uniform, so that a wrong position or a wrong token shows
    return model.eval()


def naive(model: Model, seen: list[int], following: list[int]) -> float:
    total = 0.0
    with torch.inference_mode():
        for token in following:
            logits = model.logits(model(torch.tensor([seen])))[0, -1].double()
            total += float(logits.log_softmax(-1)[token])
            seen = [*seen, token]
    return total


def random_rows(count: int, low: int, high: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(0, TINY.vocab, random.integers(low, high)).tolist() for _ in range(count)]


def test_continuations_equal_the_naive_loop(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = list(zip(random_rows(20, 1, 9), random_rows(20, 1, 7)[::-1], strict=True))
    wanted = [naive(model, *pair) for pair in pairs]
    assert likelihood.continuations(model, pairs) == pytest.approx(wanted, abs=1e-4)
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", 20)
    monkeypatch.setattr(likelihood, "LOGITS", 700)  # two positions at a time
    assert likelihood.continuations(model, pairs) == pytest.approx(wanted, abs=1e-4)


def test_a_long_prompt_loses_its_beginning(model: Model) -> None:
    prompt, following = random_rows(1, 30, 31)[0], [5, 9, 7]
    wanted = naive(model, prompt[-(TINY.context + 1 - 3) :], following)
    assert likelihood.continuations(model, [(prompt, following)]) == pytest.approx([wanted], abs=1e-4)


@pytest.mark.parametrize("stride", [None, 1, 5, 16])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 50])
def test_documents_equal_the_naive_windows(model: Model, length: int, stride: int | None) -> None:
    """Token i of a long document is seen with at most `context` tokens before it, at least context - stride."""
    text = random_rows(1, length, length + 1)[0]
    stream, step = [3, *text], stride or TINY.context // 2
    wanted, end = 0.0, 0
    while end < length:  # end: text tokens scored so far
        until = min(length, end + (TINY.context if end == 0 else step))
        for i in range(end, until):
            begin = max(0, until - TINY.context)
            wanted += naive(model, stream[begin : i + 1], [stream[i + 1]])
        end = until
    assert likelihood.documents(model, [text], 3, stride) == pytest.approx([wanted], abs=1e-3)


def test_windows_score_every_token_once() -> None:
    for length in range(2, 60):
        new = [token for row, start in likelihood.windows(range(length), 8, 3) for token in row[start:]]
        assert new == list(range(1, length))
        rows = [(row, start) for row, start in likelihood.windows(range(length), 8, 3)]
        assert all(len(row) <= 9 for row, _ in rows)
        assert all(start >= 8 - 3 + 1 for _, start in rows[1:])


def test_bad_pairs_are_named(model: Model) -> None:
    with pytest.raises(ValueError, match="pair 1: prompt and continuation need"):
        likelihood.continuations(model, [([1], [2]), ([1], [])])
    with pytest.raises(ValueError, match="17 tokens does not fit the model's context of 16"):
        likelihood.continuations(model, [([1], [2] * 17)])
    with pytest.raises(ValueError, match="stride 17"):
        likelihood.documents(model, [[1]], 0, 17)


def test_choice_picks_the_likeliest_by_hand() -> None:
    """-4 over 8 bytes is -0.5 a byte, -3 over 3 bytes is -1: the sum prefers the second, per byte the first."""
    assert choice.picks([[-4.0, -3.0], [-1.0, -1.0]]) == [1, 0]
    assert choice.picks([[-4.0, -3.0], [-1.0, -1.0]], [[8, 3], [2, 4]]) == [0, 1]
    with pytest.raises(ValueError, match="without text"):
        choice.picks([[-1.0]], [[0]])


def test_choices_of_one_question_are_scored_apart(model: Model) -> None:
    prompts, options = [[1, 2], [3]], [[[4], [5, 6], [7]], [[8], [9, 10]]]
    found = choice.log_likelihoods(model, prompts, options)
    wanted = [[naive(model, prompt, option) for option in row] for prompt, row in zip(prompts, options, strict=True)]
    assert found[0] == pytest.approx(wanted[0], abs=1e-4) and found[1] == pytest.approx(wanted[1], abs=1e-4)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, token_file.TokenFile]:
    folder = tmp_path_factory.mktemp("tokens")
    texts = ["Zürich is a town. " * 9, "json.dumps(obj)\n" * 3, "", "a b c"]
    bpe.save(bpe.train(texts, 270), folder)
    tokenizer = Tokenizer.load(folder)
    rows = [(f"{i:016x}", len(text.encode()), tokenizer.encode(text)) for i, text in enumerate(texts)]
    with token_file.Writer(folder, "val", tokenizer.vocab, tokenizer.end_of_text) as writer:
        for row in rows:
            writer.add(*row)
    return tokenizer, token_file.load(folder, "val", tokenizer.vocab)


def test_bits_per_byte_by_hand(model: Model, held_out: tuple[Tokenizer, token_file.TokenFile]) -> None:
    """A model of equal logits needs log2(vocab) bits a token: bits per byte are that times tokens per byte."""
    tokenizer, file = held_out
    flat = Model(TINY)
    torch.nn.init.zeros_(flat.embed.weight)
    found = perplexity.documents(flat.eval(), tokenizer, file, range(4), 10**6)
    tokens = len(file.ids) - 4  # the end of text is not text
    assert (found.tokens, sum(found.sizes), len(found.bits)) == (tokens, file.lengths.sum(), 3)  # the empty document says nothing
    assert found.bits_per_byte.value == pytest.approx(math.log2(300) * tokens / file.lengths.sum(), rel=1e-5)
    assert found.perplexity == pytest.approx(300, rel=1e-4)
    short = perplexity.documents(flat, tokenizer, file, [0], 7)
    assert short.tokens == 7 and short.sizes == [len(tokenizer.decode(file.ids[:7].tolist()).encode())]


def test_the_space_that_sentencepiece_puts_first_is_no_byte_of_the_text(tmp_path: Path) -> None:
    texts = ["Zürich is a town. " * 9, " a b c", "", "x"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts[:1] * 20), model_prefix=str(tmp_path / "m"), model_type="bpe", vocab_size=290, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = Tokenizer.load(tmp_path / "m.model")
    with token_file.Writer(tmp_path, "val", tokenizer.vocab, tokenizer.end_of_text) as writer:
        for text in texts:
            writer.add(text, len(text.encode()), tokenizer.encode(text))
    flat = Model(TINY)
    torch.nn.init.zeros_(flat.embed.weight)
    found = perplexity.documents(flat.eval(), tokenizer, token_file.load(tmp_path, "val", tokenizer.vocab), range(4), 10**6)
    assert (tokenizer.lead, found.sizes) == (1, [len(text.encode()) for text in texts if text])


def test_another_tokenizers_ids_are_refused(model: Model, held_out: tuple[Tokenizer, token_file.TokenFile], tmp_path: Path) -> None:
    bpe.save(bpe.train(["other words entirely"] * 3, 262), tmp_path)
    with pytest.raises(ValueError, match="was not encoded by this model's tokenizer"):
        perplexity.documents(model, Tokenizer.load(tmp_path), held_out[1], [0], 100)


def test_a_sample_spreads_over_the_file(held_out: tuple[Tokenizer, token_file.TokenFile]) -> None:
    lengths = np.full(1000, 50)
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    file = token_file.TokenFile(np.zeros(offsets[-1]), offsets, lengths, ["d"] * 1000)
    picked = perplexity.sample(file, 5000, 10**6)
    assert len(picked) == 100 and picked[0] == 0 and picked[-1] == 990
    assert perplexity.sample(file, 10**9, 10**6) == list(range(1000))
