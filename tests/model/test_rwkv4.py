"""RWKV-4 against transformers, against the recurrence of its paper, and against itself in every way of reading a text."""

import pytest
import torch
from torch import Tensor
from transformers import RwkvConfig, RwkvForCausalLM

from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.model.rwkv.four import scan
from bessemer.model.seen import Cache

IDS = torch.randint(0, 50, (3, 37), generator=torch.Generator().manual_seed(1))
NAMES = {  # ours: theirs, inside a block
    "mix_norm": "ln1",
    "ffn_norm": "ln2",
    "mix.mix_r": "attention.time_mix_receptance",
    "mix.mix_k": "attention.time_mix_key",
    "mix.mix_v": "attention.time_mix_value",
    "mix.decay": "attention.time_decay",
    "mix.bonus": "attention.time_first",
    "mix.receptance": "attention.receptance",
    "mix.key": "attention.key",
    "mix.value": "attention.value",
    "mix.out": "attention.output",
    "ffn.mix_r": "feed_forward.time_mix_receptance",
    "ffn.mix_k": "feed_forward.time_mix_key",
    "ffn.receptance": "feed_forward.receptance",
    "ffn.up": "feed_forward.key",
    "ffn.down": "feed_forward.value",
}


@pytest.fixture
def model() -> Model:
    shape = {"vocab": 50, "width": 32, "depth": 3, "hidden": 64, "context": 40}
    built = Model(ModelConfig(**shape, mixer="rwkv4", ffn="channel4", norm="layer", position="none", embed_norm=True, tied=False)).eval()
    initialise(built, 1)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():  # new blocks say nothing: shaken, all weights matter
        for block in built.stack.blocks:
            for part in (block.mix, block.ffn):
                part.initialise(draw)
        for weight in built.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=draw)
    return built


def official(model: Model) -> RwkvForCausalLM:
    """The same weights in transformers."""
    config = RwkvConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        intermediate_size=64,
        context_length=40,
        layer_norm_epsilon=1e-5,
        tie_word_embeddings=False,
    )
    theirs = RwkvForCausalLM(config).eval()
    ours, expected = model.state_dict(), theirs.state_dict()
    outside = {"rwkv.embeddings": "embed", "rwkv.blocks.0.pre_ln": "embed_norm", "rwkv.ln_out": "stack.norm", "head": "head"}
    for layer in range(3):
        outside |= {f"rwkv.blocks.{layer}.{b}": f"stack.blocks.{layer}.{a}" for a, b in NAMES.items()}
    found = {}
    for name, weight in expected.items():
        place, _, kind = name.rpartition(".")
        found[name] = ours[f"{outside[place]}.{kind}" if place in outside else outside[name]].reshape(weight.shape)
    theirs.load_state_dict(found)
    return theirs


def test_logits_and_state_equal_those_of_transformers(model: Model):
    theirs, cache = official(model), Cache(model.cfg, 3, 40)
    with torch.no_grad():
        logits = model.logits(model(IDS))
        expected = theirs(IDS, use_cache=True)
        torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)
        assert logits.std() > 0.5  # or agreement would say little
        model(IDS[:, :20], cache=cache)
        model(IDS[:, 20:], torch.arange(20, 37).expand(3, -1), cache=cache)
        for layer, slot in enumerate(cache.slots):
            torch.testing.assert_close(slot["ffn_shift"], expected.state[0][:, :, layer], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(slot["shift"], expected.state[1][:, :, layer], atol=1e-5, rtol=1e-5)
            for ours, given in zip(slot["state"].unbind(1), expected.state[2:], strict=True):
                torch.testing.assert_close(ours, given[:, :, layer], atol=1e-5, rtol=1e-5)


def naive(k: Tensor, v: Tensor, log_w: Tensor, begins: Tensor | None) -> Tensor:
    """Sums of e^k v and e^k after every token, (2, B, T, C)."""
    found, sums = [], torch.zeros(2, *k[:, 0].shape, dtype=k.dtype)
    for t in range(k.shape[1]):
        if begins is not None:
            sums = sums.masked_fill(begins[:, t, None], 0)
        sums = sums * log_w.exp() + k[:, t].exp() * torch.stack([v[:, t], torch.ones_like(v[:, t])])
        found.append(sums)
    return torch.stack(found, 2)


@pytest.mark.parametrize("documents", [False, True])
def test_the_scan_equals_the_loop_with_its_gradients(documents: bool):
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(2, 21, 4, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    given.append((-torch.rand(4, generator=draw, dtype=torch.float64)).requires_grad_())
    begins = torch.rand(2, 21, generator=draw) < 0.2 if documents else None
    above, below, top = scan(*given, None, begins)[:, :, 1:]
    ours, theirs = torch.stack([above, below]) * top.exp(), naive(*given, begins)
    weight = torch.randn(theirs.shape, generator=draw, dtype=torch.float64)
    for a, b in zip(
        (ours, *torch.autograd.grad((ours * weight).sum(), given)), (theirs, *torch.autograd.grad((theirs * weight).sum(), given)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_keys_too_large_for_exp_are_no_trouble():
    """e^200 is no fp32 number. Of two such keys the larger takes all but e^-1 of the mean."""
    k, v = torch.tensor([200.0, 201.0, -300.0]).view(1, 3, 1), torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
    above, below, _ = scan(k, v, torch.zeros(1), None, None)
    share = 1 / (1 + torch.e)
    torch.testing.assert_close((above / below)[0, 1:, 0], torch.tensor([1.0, 2 - share, 2 - share]))


@pytest.mark.parametrize("steps", [(1,) * 37, (20, 1, 16)])
def test_reading_on_equals_reading_at_once(model: Model, steps):
    model, at, found = model.double(), 0, []
    cache = Cache(model.cfg, 3, 40, dtype=torch.float64)
    with torch.no_grad():
        for size in steps:
            found.append(model(IDS[:, at : at + size], torch.arange(at, at + size).expand(3, -1), cache=cache))
            at += size
        torch.testing.assert_close(torch.cat(found, 1), model(IDS), atol=1e-9, rtol=1e-9)


def test_padding_and_other_documents_change_nothing(model: Model):
    cache, lengths, token = Cache(model.cfg, 3, 20), [5, 12, 0], torch.tensor([[7], [8], [9]])
    live = torch.arange(12) < torch.tensor(lengths)[:, None]
    segment = torch.tensor([1] * 3 + [2] + [3] * 17 + [4] * 16)
    with torch.no_grad():
        model(IDS[:, :12], cache=cache, live=live)
        found = model(token, torch.tensor(lengths)[:, None], cache=cache)
        for row, length in enumerate(lengths):
            alone = model(torch.cat([IDS[row : row + 1, :length], token[row : row + 1]], 1))[:, -1]
            torch.testing.assert_close(found[row : row + 1, 0], alone, atol=1e-5, rtol=1e-4)
        packed = model(IDS, segment=segment.expand(3, -1))
        for number in range(1, 5):
            torch.testing.assert_close(packed[:, segment == number], model(IDS[:, segment == number]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_states_stay_fp32_in_bf16(model: Model, weights: torch.dtype):
    """Under autocast, and where the weights themselves are bf16."""
    with torch.no_grad():
        exact, model, cache = model(IDS), model.to(weights), Cache(model.cfg, 3, 40)
        with torch.autocast("cpu", torch.bfloat16, enabled=weights == torch.float32):
            near = torch.cat([model(IDS[:, :30], cache=cache), *(model(IDS[:, t : t + 1], cache=cache) for t in range(30, 37))], 1)
        assert all(slot["state"].dtype == torch.float32 for slot in cache.slots)
        assert torch.nn.functional.cosine_similarity(near.float(), exact, dim=-1).min() > 0.97
