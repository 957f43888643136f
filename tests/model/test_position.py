"""Positions against their papers' formulas as naive loops, and against transformers."""

import itertools
import math

import pytest
import torch
from transformers import LlamaConfig, T5Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.t5.modeling_t5 import T5Attention

from bessemer.model.attend import See
from bessemer.model.attention import Attention
from bessemer.model.config import Architecture, ModelConfig
from bessemer.model.model import Model, Stack, initialise
from bessemer.model.position import bucket, rope_frequencies, rotary, rotate, sinusoidal
from bessemer.model.seen import Pass

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(2, 15, 16, generator=DRAW, dtype=torch.float64)


def test_sinusoids_are_those_of_the_paper():
    """PE(pos, 2i) = sin(pos / 10000^(2i / C)), PE(pos, 2i + 1) = cos(the same); here all sines stand before all cosines."""
    found = sinusoidal(torch.tensor([[0, 1, 7, 500]]), 6)[0]
    for row, at in enumerate((0, 1, 7, 500)):
        angles = [at / 10000 ** (2 * i / 6) for i in range(3)]
        assert found[row].tolist() == pytest.approx([math.sin(a) for a in angles] + [math.cos(a) for a in angles], abs=3e-5)


def shaw() -> Attention:
    mix = Attention(Architecture(width=16, heads=4, kv_heads=2, position="relative", reach=3)).double()
    for weight in mix.parameters():
        torch.nn.init.normal_(weight, std=0.5, generator=DRAW)
    return mix


def naive_shaw(mix: Attention, x: torch.Tensor, visible) -> torch.Tensor:
    """One row x (T, C): e_ij = q_i (k_j + a^K_ij) / sqrt(D), z_i = sum_j softmax(e_i)_j (v_j + a^V_ij), token by token and head by head."""
    query, key, value = ((x @ part.weight.T).unflatten(-1, (-1, 4)) for part in (mix.query, mix.key, mix.value))
    out = []
    for i in range(len(x)):
        heads = []
        for head in range(4):
            seen = [j for j in range(len(x)) if visible(i, j)]
            place = [max(-3, min(3, j - i)) + 3 for j in seen]
            scores = torch.stack([query[i, head] @ (key[j, head // 2] + mix.relative_key.weight[p]) / 2 for j, p in zip(seen, place, strict=True)])
            weights = scores.softmax(0)
            parts = [w * (value[j, head // 2] + mix.relative_value.weight[p]) for w, j, p in zip(weights, seen, place, strict=True)]
            heads.append(torch.stack(parts).sum(0))
        out.append(torch.cat(heads))
    return torch.stack(out) @ mix.out.weight.T


@pytest.mark.parametrize(("causal", "window"), [(True, 0), (False, 0), (True, 5)])
@torch.no_grad()
def test_shaws_positions_equal_a_naive_loop(causal: bool, window: int):
    mix, place = shaw(), torch.arange(15)
    seen = Pass(place[None], See(causal=causal, window=window), distance=(place - place[:, None])[None])
    found, _ = mix(X, seen)
    for row in range(2):
        expected = naive_shaw(mix, X[row], lambda i, j: (j <= i or not causal) and (not window or i - j < window))
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_shaws_positions_equal_a_naive_loop_when_documents_are_packed():
    mix, place = shaw(), torch.arange(15)
    segment = torch.tensor([[1] * 6 + [2] * 9, [1] * 1 + [2] * 10 + [0] * 4])
    see = See(causal=True, segment=segment, key_segment=segment)
    found, _ = mix(X, Pass(place[None], see, distance=(place - place[:, None])[None]))
    for row, cuts in enumerate(((0, 6, 15), (0, 1, 11))):
        for a, b in itertools.pairwise(cuts):
            torch.testing.assert_close(found[row, a:b], naive_shaw(mix, X[row, a:b], lambda i, j: j <= i), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_shaws_positions_equal_a_naive_loop_with_a_cache_of_rows_of_different_length():
    """Both rows are read at once, the second has 4 tokens and padding; then each gets three more tokens at its own place."""
    mix, lengths = shaw(), (9, 4)
    slot = {name: torch.zeros(2, 2, 20, 4, dtype=torch.float64) for name in ("keys", "values")}

    def read(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        distance = torch.arange(20) - at[:, :, None]
        return mix(x, Pass(at, See(causal=True, at=at), distance=distance), slot)[0]

    first = read(X[:, :9], torch.arange(9).expand(2, -1))
    later = [
        read(torch.stack([X[row, n + step] for row, n in enumerate(lengths)])[:, None], torch.tensor(lengths)[:, None] + step) for step in range(3)
    ]
    for row, length in enumerate(lengths):
        found = torch.cat([first[row, :length], *(one[row] for one in later)])
        torch.testing.assert_close(found, naive_shaw(mix, X[row, : length + 3], lambda i, j: j <= i), atol=1e-5, rtol=1e-5)


def t5(both_ways: bool, buckets: int, reach: int) -> T5Attention:
    config = T5Config(d_model=32, d_kv=8, num_heads=4, relative_attention_num_buckets=buckets, relative_attention_max_distance=reach)
    config.is_decoder = not both_ways
    return T5Attention(config, has_relative_attention_bias=True, layer_idx=0).eval()


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "reach"), [(32, 128), (8, 20), (4, 5)])
def test_t5s_buckets_are_those_of_transformers(both_ways: bool, buckets: int, reach: int):
    distance = torch.arange(-400, 401)[None]
    theirs = T5Attention._relative_position_bucket(distance, both_ways, buckets, reach)
    cfg = Architecture(position="bias", buckets=buckets, reach=reach)
    assert torch.equal(bucket(distance, cfg, both_ways), theirs) and theirs.max() < buckets


@pytest.mark.parametrize("both_ways", [True, False])
@torch.no_grad()
def test_t5s_bias_is_that_of_transformers(both_ways: bool):
    theirs = t5(both_ways, 32, 128)
    torch.nn.init.normal_(theirs.relative_attention_bias.weight)
    stack = Stack(ModelConfig(vocab=8, width=32, heads=4, kv_heads=4, position="bias", depth=1), 1, causal=not both_ways)
    stack.bias.weight.copy_(theirs.relative_attention_bias.weight)
    seen = stack._positioned(torch.zeros(1, 50, 32), Pass(torch.arange(50)[None], See()), None)
    torch.testing.assert_close(seen.see.bias, theirs.compute_bias(50, 50))


SCALED = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, {}),
    "yarn": ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, {"rope_context": 512}),
    "yarn, old context by the factor": ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}, {"rope_factor": 8.0}),
    "llama3": (
        {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 512, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_context": 512},
    ),
}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_scaled_frequencies_are_those_of_transformers(name: str, base: float):
    parameters, fields = SCALED[name]
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=4, max_position_embeddings=2048, rope_theta=base, rope_parameters={**parameters, "rope_theta": base}
    )
    frequencies, strength = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
    cfg = Architecture(
        **{"width": 256, "heads": 4, "context": 2048, "rope_base": base, "rope_factor": 4.0, "rope_scaling": name.split(",")[0]} | fields
    )
    ours, factor = rope_frequencies(cfg)
    torch.testing.assert_close(ours, frequencies)
    assert factor == pytest.approx(strength)
    assert not torch.allclose(ours, rope_frequencies(Architecture(width=256, heads=4, rope_base=base))[0])


def test_ntk_keeps_the_fastest_pair_and_slows_the_slowest_by_the_factor():
    """base' = base * s^(D / (D - 2)), so the last of D / 2 pairs, base'^-((D - 2) / D), turns s times slower. And as transformers'
    dynamic scaling for a text s times as long."""
    plain, _ = rope_frequencies(Architecture(width=64, heads=4))
    ours, factor = rope_frequencies(Architecture(width=64, heads=4, rope_scaling="ntk", rope_factor=3.0))
    assert factor == 1 and ours[0] == plain[0] == 1 and ours[-1].item() == pytest.approx(plain[-1].item() / 3)
    parameters = {"rope_type": "dynamic", "factor": 1.0, "rope_theta": 10000.0}
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=100, rope_parameters=parameters)
    torch.testing.assert_close(ours, ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=300)[0])


def test_rope_scores_depend_on_distance_alone():
    """Equation 16 of the paper: the product of a turned query and key, at 7 and 3 as at 1007 and 1003; and it is no other at 7 and 4."""
    cfg, query, key = Architecture(width=64, heads=4), *torch.randn(2, 1, 1, 1, 16, generator=DRAW)

    def score(i: int, j: int) -> float:
        turned = (rotate(x, *rotary(torch.tensor([[at]]), cfg)) for x, at in ((query, i), (key, j)))
        return float((next(turned) * next(turned)).sum())

    assert score(7, 3) == pytest.approx(score(1007, 1003), abs=1e-3)
    assert score(0, 0) == pytest.approx(float((query * key).sum()), abs=1e-5) and abs(score(7, 3) - score(7, 4)) > 0.01


@torch.no_grad()
def test_a_windowed_token_knows_its_last_tokens_alone():
    """Of one block, with positions that only distance tells: what a token becomes follows from the last 6 tokens, and from no fewer."""
    model = Model(ModelConfig(vocab=97, width=32, depth=1, heads=4, kv_heads=2, hidden=48, context=64, window=6))
    initialise(model, 0)
    ids = torch.randint(0, 97, (3, 40), generator=DRAW)
    hidden = model(ids)
    for end in (6, 7, 25, 40):
        torch.testing.assert_close(model(ids[:, end - 6 : end])[:, -1], hidden[:, end - 1], atol=1e-5, rtol=1e-4)
        assert (model(ids[:, end - 5 : end])[:, -1] - hidden[:, end - 1]).abs().max() > 1e-4
