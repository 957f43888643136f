"""Sampling against its definitions, and batched cached generation against a naive loop."""

import pytest
import torch
from transformers import LlamaForCausalLM

from bessemer.decode.generate import generate, stream
from bessemer.decode.sample import Sampling, choose
from bessemer.model import weights
from bessemer.model.decoder import Decoder

PROMPTS = [[5, 6, 7], list(range(10, 30)), [1], [300, 2, 2, 9]]
LOGITS = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()


def naive(model: Decoder, prompt: list[int], steps: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            ids.append(int(model.logits(model(torch.tensor([ids])))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_answers_equal_the_naive_loop_whatever_the_batch(small: Decoder):
    expected = [naive(small, prompt, 20) for prompt in PROMPTS]
    for rows in (1, 2, 4):
        assert generate(small, PROMPTS, Sampling(max_tokens=20), set(), rows) == expected
    assert list(stream(small, PROMPTS[1], Sampling(max_tokens=20), set())) == expected[1]


def test_greedy_equals_transformers(small: Decoder, tokenizer_folder, tmp_path):
    weights.save(small, tmp_path, tokenizer_folder, [319])
    theirs = LlamaForCausalLM.from_pretrained(tmp_path)
    for prompt in PROMPTS:
        found = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert found[0, len(prompt) :].tolist() == generate(small, [prompt], Sampling(max_tokens=20), set())[0]


def test_an_answer_ends_before_its_stop_token(small: Decoder):
    full = naive(small, PROMPTS[0], 20)
    stop = full[7]
    assert generate(small, PROMPTS, Sampling(max_tokens=20), {stop})[0] == full[: full.index(stop)]


def test_an_answer_ends_where_the_context_is_full(small: Decoder):
    prompts = [list(range(60)), [4]]
    found = generate(small, prompts, Sampling(max_tokens=100), set())
    assert [len(answer) for answer in found] == [4, 63]
    assert found[1] == naive(small, [4], 63)
    with pytest.raises(ValueError, match="leaves no room in a context of 64"):
        generate(small, [list(range(64))], Sampling(), set())
    with pytest.raises(ValueError, match="a prompt is empty"):
        generate(small, [[]], Sampling(), set())


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


def test_sampling_is_fixed_by_its_seed(small: Decoder):
    first, again, other = (generate(small, PROMPTS, Sampling(max_tokens=10, temperature=1.0, seed=s), set()) for s in (1, 1, 2))
    assert first == again != other
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        Sampling(temperature=-1)
