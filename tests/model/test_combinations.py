"""Every mixer with every position, feed-forward and norm: cached decoding, packing and padding change nothing."""

import itertools

import pytest
import torch

from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.model.seen import Cache

IDS = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(1))
SOURCE = torch.randint(0, 97, (3, 12), generator=torch.Generator().manual_seed(2))
SMALL = {"vocab": 97, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 48, "context": 64, "reach": 20, "experts": 4}

POSITIONS = ["none", "learned", "sinusoidal", "relative", "bias", "rope"]
MIXERS = [
    *({"position": position} for position in POSITIONS),
    {"window": 6},
    {"window": 6, "position": "relative"},
    {"window": 6, "position": "bias"},
    {"kv_heads": 1, "qk_norm": True},
    {"rope_scaling": "yarn", "rope_factor": 4.0},
    {"mixer": "rwkv", "position": "none"},
    {"mixer": "rwkv4", "position": "none"},
    {"mixer": "lstm", "position": "none"},
    {"mixer": "lstm", "position": "learned"},
]
FEEDS = [
    {"ffn": "gated"},
    {"ffn": "dense", "act": "relu2"},
    {"ffn": "moe"},
    {"ffn": "moe", "router": "sigmoid", "balance": "bias", "shared_experts": 1},
    {"ffn": "channel"},
    {"ffn": "channel4"},
]
NORMS = [{"norm": "rms"}, {"norm": "layer", "norm_at": "post", "bias": "all", "embed_norm": True}]
PLAIN, *OTHERS = [feed | norm for feed, norm in itertools.product(FEEDS, NORMS) if not (feed["ffn"] == "moe" and norm.get("bias") == "all")]
# Every mixer and position with two feed-forwards and norms, each of those with attention and with a mixer that keeps a state: what a
# feed-forward does depends on a mixer no further.
DECODERS = [
    *(mixer | rest for mixer in MIXERS for rest in (PLAIN, {"ffn": "channel"} | NORMS[1])),
    *(mixer | rest for mixer in ({"position": "rope"}, {"mixer": "rwkv", "position": "none"}) for rest in OTHERS),
]
ENCDECS = [*({"shape": "encdec", "position": position} for position in POSITIONS), *({"shape": "encdec", **rest} for rest in OTHERS[:4])]


def name(fields: dict) -> str:
    return "-".join(str(value) for value in fields.values())


def build(shake: float = 0.15, **fields) -> Model:
    model = Model(ModelConfig(**(SMALL | fields))).eval()
    initialise(model, 1)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():  # what starts at zero or one would hide mistakes
        for weight in model.parameters():
            weight.add_(shake * torch.randn(weight.shape, generator=draw))
    return model


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.std() > 0.1
    torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("fields", [*DECODERS, *ENCDECS], ids=name)
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward(fields):
    model, cache, at, found = build(**fields), Cache(ModelConfig(**(SMALL | fields)), 3, 48), 0, []
    memory = model.encode(SOURCE) if model.encoder else None
    for size in (7, 1, 1, 20, 11):
        positions = torch.arange(at, at + size).expand(3, -1)
        found.append(model(IDS[:, at : at + size], positions, cache=cache, memory=None if at else memory))
        at += size
    same(torch.cat(found, 1), model(IDS, memory=memory))


@pytest.mark.parametrize("fields", [*DECODERS, *ENCDECS], ids=name)
@torch.no_grad()
def test_rows_of_different_length_share_a_cache(fields):
    model, cache = build(**fields), Cache(ModelConfig(**(SMALL | fields)), 3, 20)
    lengths, sources = torch.tensor([5, 12, 1]), torch.tensor([12, 3, 7])
    live, segment = torch.arange(12) < lengths[:, None], (torch.arange(12) < sources[:, None]).long()
    given = {"memory": model.encode(SOURCE, segment), "memory_segment": segment} if model.encoder else {}
    found = [model(IDS[:, :12] * live, torch.arange(12).expand(3, -1), cache=cache, live=live, **given)[torch.arange(3), lengths - 1]]
    for step in range(3):
        token = IDS[torch.arange(3), lengths + step][:, None]
        found.append(model(token, (lengths + step)[:, None], cache=cache)[:, 0])
    for row, length in enumerate(lengths.tolist()):
        memory = model.encode(SOURCE[row : row + 1, : sources[row]]) if model.encoder else None
        alone = model(IDS[row : row + 1, : length + 3], memory=memory)[0, length - 1 :]
        same(torch.stack([step[row] for step in found]), alone)


@pytest.mark.parametrize("fields", [*DECODERS, *ENCDECS, *({"shape": "encoder", **mixer} for mixer in MIXERS[:6])], ids=name)
@torch.no_grad()
def test_documents_of_a_row_do_not_see_each_other(fields):
    model, cuts = build(**fields), [0, 1, 14, 31, 40]
    segment = torch.cat([torch.full((3, b - a), number) for number, (a, b) in enumerate(itertools.pairwise(cuts), 1)], 1)
    at = torch.cat([torch.arange(b - a) for a, b in itertools.pairwise(cuts)]).expand(3, -1)
    whose = torch.tensor([1] * 2 + [2] * 3 + [3] * 3 + [4] * 4).expand(3, -1)
    source_at = torch.tensor([0, 1, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3]).expand(3, -1)
    given = {"memory": model.encode(SOURCE, whose, source_at), "memory_segment": whose} if model.encoder else {}
    together = model(IDS, at, segment, **given)
    for number, (a, b) in enumerate(itertools.pairwise(cuts), 1):
        memory = model.encode(SOURCE[:, whose[0] == number]) if model.encoder else None
        same(together[:, a:b], model(IDS[:, a:b], memory=memory))


@pytest.mark.parametrize("fields", [{"position": position} for position in POSITIONS], ids=name)
@torch.no_grad()
def test_a_prefix_is_seen_both_ways(fields):
    """The whole prefix sees its end; nothing sees what comes after; and a cache changes nothing."""
    model, prefix = build(prefix=True, **fields), (torch.arange(40) < 10).expand(3, -1)
    hidden, changed = model(IDS, prefix=prefix), IDS.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 97
    assert (model(changed, prefix=prefix)[:, 0] - hidden[:, 0]).abs().max() > 1e-3
    changed = IDS.clone()
    changed[:, 25] = (changed[:, 25] + 1) % 97
    torch.testing.assert_close(model(changed, prefix=prefix)[:, :25], hidden[:, :25])
    cache = Cache(model.cfg, 3, 40)
    first = model(IDS[:, :10], torch.arange(10).expand(3, -1), cache=cache, prefix=prefix[:, :10])
    rest = model(IDS[:, 10:], torch.arange(10, 40).expand(3, -1), cache=cache)
    same(torch.cat([first, rest], 1), hidden)


@pytest.mark.parametrize("fields", MIXERS, ids=name)
@torch.no_grad()
def test_no_token_sees_the_future(fields):
    model, changed = build(**fields), IDS.clone()
    changed[:, 25] = (changed[:, 25] + 1) % 97
    a, b = model(IDS), model(changed)
    torch.testing.assert_close(a[:, :25], b[:, :25], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(a[:, 25:], b[:, 25:], atol=1e-3)


BF16 = [*(mixer | PLAIN for mixer in MIXERS), *(rest for rest in OTHERS), *ENCDECS]


@pytest.mark.parametrize("fields", BF16, ids=name)
@torch.no_grad()
def test_a_model_in_bf16_says_what_it_says_in_fp32(fields):
    """Weights, hidden states and cache in bf16; read in two calls. Layers as they are at the start, where nothing amplifies rounding."""
    model, given = Model(ModelConfig(**(SMALL | fields))).eval(), {}
    initialise(model, 1)
    model.embed.weight.mul_(50)
    memory = model.encode(SOURCE) if model.encoder else None
    exact = model.logits(model(IDS, memory=memory)).log_softmax(-1)
    model, cache = model.to(torch.bfloat16), Cache(model.cfg, 3, 40, dtype=torch.bfloat16)
    given = {"memory": model.encode(SOURCE)} if model.encoder else {}
    first = model(IDS[:, :39], torch.arange(39).expand(3, -1), cache=cache, **given)
    last = model(IDS[:, 39:], torch.full((3, 1), 39), cache=cache)
    assert first.dtype == last.dtype == torch.bfloat16
    found = model.logits(torch.cat([first, last], 1)).float().log_softmax(-1)
    assert exact.std() > 0.5 and (found - exact).abs().mean() < 0.02 * exact.std()


@pytest.mark.parametrize("fields", [*BF16, *({"shape": "encoder", "position": position} for position in POSITIONS)], ids=name)
def test_gradients_under_autocast_are_those_of_fp32(fields):
    """One step as it trains in bf16: no gradient is missing or infinite, and together they point where those of fp32 do."""
    segment = torch.tensor([[1] * 15 + [2] * 20 + [0] * 5, [1] * 40, [1] * 39 + [2]])
    gradients = []
    for bf16 in (False, True):
        model = build(0.05, **fields)  # larger weights of RWKV amplify rounding
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            given = {"memory": model.encode(SOURCE, segment[:, :12]), "memory_segment": segment[:, :12]} if model.encoder else {}
            scores = model.logits(model(IDS, None, segment, **given))
        cost = torch.nn.functional.cross_entropy(scores.float().flatten(0, 1), IDS.flatten())
        cost.backward()
        missing = [name for name, weight in model.named_parameters() if weight.grad is None]
        assert not missing
        gradients.append(torch.cat([weight.grad.flatten() for name, weight in model.named_parameters() if not name.endswith("expert_bias")]))
    assert torch.isfinite(gradients[1]).all()
    assert torch.cosine_similarity(*gradients, 0) > 0.99


REFUSED = [
    ({"heads": 5, "kv_heads": 5}, r"heads \(5\) must divide width \(32\), or set head_width"),
    ({"kv_heads": 3}, "multiple of kv_heads"),
    ({"head_width": 7}, "must be even: rope"),
    ({"mixer": "rwkv"}, "position must be none, not rope"),
    ({"mixer": "lstm", "position": "none", "shape": "encoder"}, "shape must be decoder"),
    ({"window": 5, "shape": "encoder"}, "window is for shape = decoder"),
    ({"mixer": "rwkv", "position": "none", "window": 5}, "belong to mixer = attention"),
    ({"rope_scaling": "yarn"}, "go together"),
    ({"rope_factor": 2.0}, "go together"),
    ({"rope_scaling": "yarn", "rope_factor": 2.0, "position": "none"}, "rope_scaling is for position = rope"),
    ({"position": "bias", "reach": 16}, "larger than half of buckets"),
    ({"ffn": "moe", "top_k": 5}, "cannot be larger than experts"),
    ({"ffn": "moe", "top_k": 1}, "the router learns nothing"),
    ({"ffn": "moe", "balance": "bias"}, "needs router = sigmoid"),
    ({"ffn": "moe", "bias": "all"}, "experts have no biases"),
    ({"ffn": "moe", "hidden": 50}, "multiples of 8"),
    ({"head": "sequence"}, "needs labels"),
    ({"labels": 3}, "labels is for head"),
    ({"head": "span"}, "shape must be encoder"),
    ({"shape": "encdec", "head": "scalar"}, "head must be lm"),
    ({"encoder_depth": 3}, "encoder_depth is for shape = encdec"),
    ({"types": 2}, "types is for shape = encoder"),
    ({"ahead": 1, "shape": "encoder"}, "needs shape = decoder"),
    ({"prefix": True, "shape": "encoder"}, "needs shape = decoder"),
    ({"ffn": "channel", "shape": "encoder"}, "shape must be decoder"),
    ({"ranks": (32, 32)}, "four numbers"),
    ({"rope_context": 32}, "name its rope_scaling too"),
    ({"rope_scaling": "ntk", "rope_factor": 2.0, "head_width": 2}, "must be 4 or more for rope_scaling = ntk"),
    ({"ffn": "moe", "shared_gate": True}, "set shared_experts"),
    ({"mixer": "rwkv", "position": "none", "head_width": 12}, r"head_width \(12\) must divide width"),
    ({"position": "bias", "buckets": 7}, "must be even and at least 4"),
    ({"position": "sinusoidal", "width": 33, "heads": 3, "kv_heads": 3}, "must be even for position = sinusoidal"),
    ({"shape": "encdec", "window": 4}, "window is for shape = decoder"),
    ({"mixer": "lstm", "position": "none", "prefix": True}, "mixer = attention"),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED, ids=lambda value: "")
def test_fields_that_do_not_fit_together_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        ModelConfig(**(SMALL | fields))


def test_heads_are_no_matter_to_an_lstm():
    assert ModelConfig(**(SMALL | {"mixer": "lstm", "position": "none", "width": 30, "kv_heads": 3})).width == 30


@torch.no_grad()
def test_a_source_is_asked_for_where_one_is_read_and_nowhere_else():
    model = build(shape="encdec")
    for cache in (None, Cache(model.cfg, 3, 40)):
        with pytest.raises(ValueError, match="an encdec reads a source"):
            model(IDS, torch.arange(40).expand(3, -1), cache=cache)
    with pytest.raises(ValueError, match="shape = decoder reads no source"):
        build()(IDS, memory=model.encode(SOURCE))
    with pytest.raises(ValueError, match="has no encoder"):
        build().encode(SOURCE)


@torch.no_grad()
def test_padding_of_a_source_is_not_seen_where_a_row_is_one_document():
    model, segment = build(shape="encdec"), (torch.arange(12) < 7).long().expand(3, -1)
    padded = model(IDS, memory=model.encode(SOURCE, segment), memory_segment=segment)
    same(padded, model(IDS, memory=model.encode(SOURCE[:, :7])))
    assert not torch.allclose(padded, model(IDS, memory=model.encode(SOURCE)), atol=1e-2)


def test_an_encoder_has_no_cache():
    with pytest.raises(ValueError, match="has no cache"):
        Cache(ModelConfig(**SMALL, shape="encoder"), 1, 8)
