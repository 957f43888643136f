"""Sampling against its definitions, and batched cached generation against a naive loop."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, T5ForConditionalGeneration

from bessemer.decode.generate import generate, stream
from bessemer.decode.sample import Sampling, choose
from bessemer.model import weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise

PROMPTS = [[5, 6, 7], list(range(10, 30)), [1], [300, 2, 2, 9]]
LOGITS = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()


def naive(model: Model, prompt: list[int], steps: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            ids.append(int(model.logits(model(torch.tensor([ids])))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_answers_equal_the_naive_loop_whatever_the_batch(small: Model):
    expected = [naive(small, prompt, 20) for prompt in PROMPTS]
    for rows in (1, 2, 4):
        assert generate(small, PROMPTS, Sampling(max_tokens=20), set(), rows) == expected
    assert list(stream(small, PROMPTS[1], Sampling(max_tokens=20), set())) == expected[1]


def test_greedy_equals_transformers(small: Model, tokenizer_folder, tmp_path):
    weights.save(small, tmp_path, tokenizer_folder, [319])
    theirs = LlamaForCausalLM.from_pretrained(tmp_path)
    for prompt in PROMPTS:
        found = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert found[0, len(prompt) :].tolist() == generate(small, [prompt], Sampling(max_tokens=20), set())[0]


def test_an_answer_ends_before_its_stop_token(small: Model):
    full = naive(small, PROMPTS[0], 20)
    stop = full[7]
    assert generate(small, PROMPTS, Sampling(max_tokens=20), {stop})[0] == full[: full.index(stop)]


def test_an_answer_ends_where_the_context_is_full(small: Model):
    prompts = [list(range(60)), [4]]
    found = generate(small, prompts, Sampling(max_tokens=100), set())
    assert [len(answer) for answer in found] == [4, 63]
    assert found[1] == naive(small, [4], 63)
    with pytest.raises(ValueError, match="leaves no room in a context of 64"):
        generate(small, [list(range(64))], Sampling(), set())
    with pytest.raises(ValueError, match="a prompt is empty"):
        generate(small, [[]], Sampling(), set())


def shaken(**fields) -> Model:
    """A model whose scores differ enough that greedy choices are no ties."""
    model = Model(ModelConfig(**({"vocab": 320, "width": 32, "depth": 2, "heads": 4, "kv_heads": 4, "hidden": 48, "context": 64} | fields))).eval()
    initialise(model, 0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=draw))
    return model


RECURRENT = [
    {"mixer": "rwkv", "ffn": "channel", "position": "none"},
    {"mixer": "rwkv4", "ffn": "channel4", "position": "none", "norm": "layer", "embed_norm": True},
    {"mixer": "lstm", "position": "none"},
    {"mixer": "lstm", "position": "learned", "ffn": "moe", "experts": 4},
    {"window": 4, "position": "relative"},
    {"ahead": 2},
]


@pytest.mark.parametrize("fields", RECURRENT, ids=lambda fields: "-".join(map(str, fields.values())))
def test_every_mixer_continues_as_the_naive_loop_does(fields):
    """Rows of different length together, each to its own end, so that some run on with nothing to say."""
    model = shaken(**fields)
    expected = [naive(model, prompt, 16) for prompt in PROMPTS]
    stop = expected[1][3]
    assert generate(model, PROMPTS, Sampling(max_tokens=16), set()) == expected
    cut = [answer[: answer.index(stop)] if stop in answer else answer for answer in expected]
    assert generate(model, PROMPTS, Sampling(max_tokens=16), {stop}) == cut
    assert list(stream(model, PROMPTS[3], Sampling(max_tokens=16), set())) == expected[3]


def test_a_prefix_model_sees_its_prompt_both_ways():
    model = shaken(prefix=True)
    expected = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(12):
            prefix = torch.arange(len(ids))[None] < len(prompt)
            ids.append(int(model.logits(model(torch.tensor([ids]), prefix=prefix))[0, -1].argmax()))
        expected.append(ids[len(prompt) :])
    assert generate(model, PROMPTS, Sampling(max_tokens=12), set()) == expected
    assert expected != [naive(model, prompt, 12) for prompt in PROMPTS]  # the direction matters


T5 = {"shape": "encdec", "position": "bias", "ffn": "dense", "act": "relu", "encoder_depth": 3}


def test_an_encoder_decoder_writes_what_transformers_writes(tokenizer_folder: Path, tmp_path: Path):
    """Sources of different length share a batch here; there each runs alone."""
    model = shaken(**T5)
    weights.save(model, tmp_path, tokenizer_folder, [319], start=0)
    theirs = T5ForConditionalGeneration.from_pretrained(tmp_path)
    expected = []
    for source in PROMPTS:
        found = theirs.generate(torch.tensor([source]), max_new_tokens=20, do_sample=False, eos_token_id=None)
        expected.append(found[0, 1:].tolist())
    starts = [[0]] * len(PROMPTS)
    for rows in (1, 4):
        assert generate(model, starts, Sampling(max_tokens=20), set(), rows, sources=PROMPTS) == expected
    assert list(stream(model, [0], Sampling(max_tokens=20), set(), source=PROMPTS[1])) == expected[1]
    assert len({tuple(answer) for answer in expected}) == 4  # it reads what it is given
    begun = [[0, *answer[:n]] for n, answer in enumerate(expected)]  # a prompt is how the text begins
    assert generate(model, begun, Sampling(max_tokens=8), set(), sources=PROMPTS) == [answer[n : n + 8] for n, answer in enumerate(expected)]


REFUSED = [
    ({"shape": "encoder"}, [[1]], [], "shape = encoder and head = lm writes no text"),
    ({"head": "sequence", "labels": 2}, [[1]], [], "head = sequence writes no text"),
    ({}, [[1], []], [], "a prompt is empty"),
    ({}, [[1]], [[1]], "shape = decoder reads no source"),
    (T5, [[0]], [], "0 sources for 1 prompts"),
    (T5, [[0], [0]], [[1]], "1 sources for 2 prompts"),
    (T5, [[0]], [[]], "of at least one token"),
    (T5, [[0]], [[1] * 65], "a source of 65 tokens does not fit a context of 64"),
]


@pytest.mark.parametrize(("fields", "prompts", "sources", "said"), REFUSED, ids=lambda value: "")
def test_what_cannot_be_continued_is_refused(fields, prompts, sources, said):
    with pytest.raises(ValueError, match=said):
        generate(shaken(**fields), prompts, Sampling(), set(), sources=sources)


def test_one_prompt_too_long_is_refused_before_the_others_are_answered(small: Model, monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(Model, "forward", lambda *_, **__: calls.append(1))
    with pytest.raises(ValueError, match="leaves no room"):
        generate(small, [[1], [2] * 64], Sampling(), set(), rows=1)
    assert not calls and generate(small, [], Sampling(), set()) == []


def frequencies(sampling: Sampling) -> list[float]:
    draw = torch.Generator().manual_seed(0)
    drawn = choose(LOGITS.expand(20_000, -1), sampling, draw)
    return (torch.bincount(drawn, minlength=4) / 20_000).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), [0.5, 0.2, 0.2, 0.1]),
        (Sampling(temperature=0.5), [0.25 / 0.34, 0.04 / 0.34, 0.04 / 0.34, 0.01 / 0.34]),
        (Sampling(temperature=1.0, top_k=1), [1, 0, 0, 0]),
        (Sampling(temperature=1.0, top_k=3), [5 / 9, 2 / 9, 2 / 9, 0]),
        (Sampling(temperature=1.0, top_p=0.6), [5 / 7, 2 / 7, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.05), [1, 0, 0, 0]),
        (Sampling(temperature=0.0), [1, 0, 0, 0]),
    ],
)
def test_samples_have_the_distribution_asked_for(sampling: Sampling, expected: list[float]):
    """20,000 draws: standard error at most 0.0036."""
    assert frequencies(sampling) == pytest.approx(expected, abs=0.015)


def test_sampling_is_fixed_by_its_seed(small: Model):
    first, again, other = (generate(small, PROMPTS, Sampling(max_tokens=10, temperature=1.0, seed=s), set()) for s in (1, 1, 2))
    assert first == again != other
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        Sampling(temperature=-1)
