"""Parts that learn more from the same tokens: value embeddings, the embedding read again, maps that start at zero."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bessemer.core import config as settings
from bessemer.model import gguf, weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.model.seen import Cache
from bessemer.scale import count

SMALL = ModelConfig(vocab=320, width=32, depth=3, heads=4, kv_heads=2, head_width=8, hidden=48, context=64)
EXTRAS = {"value_embed": True, "embed_skip": True}
IDS = torch.randint(0, 320, (3, 24), generator=torch.Generator().manual_seed(1))


def build(**changes) -> Model:
    """A model whose every weight is some number, so that no part says nothing."""
    model = Model(dataclasses.replace(SMALL, **changes)).eval()
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.3, generator=draw)
    return model


def test_a_token_has_a_value_of_its_own_in_every_second_block_through_a_gate_for_each_head():
    """By hand, of one block with one token: it sees itself alone, so what attention mixes is its value, twice for two query heads each."""
    model = build(depth=1, value_embed=True)
    mix = model.stack.blocks[0].mix
    x = model.stack.blocks[0].mix_norm(model.embed(IDS[:1, :1]))[0, 0]
    gate = 2 / (1 + torch.exp(-(mix.token_value.gate.weight @ x[:12])))
    value = (mix.value.weight @ x).view(2, 8) + gate[:, None] * mix.token_value.table.weight[IDS[0, 0]].view(2, 8)
    mixed = model.embed(IDS[0, 0]) + mix.out.weight @ value.repeat_interleave(2, 0).flatten()
    expected = mixed + model.stack.blocks[0].ffn(model.stack.blocks[0].ffn_norm(mixed)[None, None], None)[0][0, 0]
    with torch.no_grad():
        torch.testing.assert_close(model(IDS[:1, :1])[0, 0], model.stack.norm(expected), atol=1e-5, rtol=1e-5)
    assert [block.mix.token_value is not None for block in build(value_embed=True).stack.blocks] == [True, False, True]
    assert [block.mix.token_value is not None for block in build(value_embed=True, depth=4).stack.blocks] == [False, True, False, True]


def test_each_block_reads_a_mix_of_the_stream_and_the_embedding():
    """With blocks that add nothing, the factors are all there is: x = (k1 (k0 + a0) + a1) x0, and so on."""
    model = build(embed_skip=True)
    with torch.no_grad():
        for block in model.stack.blocks:
            block.mix.out.weight.zero_()
            block.ffn.down.weight.zero_()
        factor = torch.tensor(1.0)
        for keep, again in zip(model.stack.keep, model.stack.again, strict=True):
            factor = keep * factor + again
        torch.testing.assert_close(model(IDS), model.stack.norm(factor * model.embed(IDS)), atol=1e-5, rtol=1e-4)


def test_a_new_model_reads_the_embedding_once_and_its_blocks_pass_on_what_they_read():
    model, plain = Model(dataclasses.replace(SMALL, zero_out=True, **EXTRAS)), Model(SMALL)
    initialise(model, 3)
    initialise(plain, 3)
    with torch.no_grad():
        assert torch.equal(model(IDS), model.stack.norm(model.embed(IDS)))
        assert not torch.allclose(plain(IDS), plain.stack.norm(plain.embed(IDS)), atol=1e-4)
    loss = F.cross_entropy(model.logits(model(IDS[:, :-1])).flatten(0, 1), IDS[:, 1:].flatten())
    loss.backward()
    assert all(block.mix.out.weight.grad.abs().max() > 0 and block.ffn.down.weight.grad.abs().max() > 0 for block in model.blocks)


@pytest.mark.parametrize("steps", [(24,), (1,) * 24, (7, 1, 16)])
def test_cached_decoding_equals_the_full_forward(steps):
    model, at, found = build(**EXTRAS), 0, []
    cache = Cache(model.cfg, 3, 32)
    with torch.no_grad():
        for size in steps:
            found.append(model(IDS[:, at : at + size], torch.arange(at, at + size).expand(3, -1), cache=cache))
            at += size
        torch.testing.assert_close(torch.cat(found, 1), model(IDS), atol=1e-4, rtol=1e-4)


def test_documents_of_a_row_stay_apart():
    model = build(**EXTRAS)
    segment = (torch.arange(24) >= 10).long().expand(3, -1) + 1
    at = torch.cat([torch.arange(10), torch.arange(14)]).expand(3, -1)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS, at, segment)[:, 10:], model(IDS[:, 10:]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"value_embed": True}, {"embed_skip": True}, EXTRAS])
def test_it_is_stored_under_our_names_and_comes_back(changes, tokenizer_folder: Path, tmp_path: Path):
    model = build(**changes)
    weights.save(model, tmp_path, tokenizer_folder, [2])
    again = weights.load(tmp_path)
    assert again.cfg == model.cfg
    with torch.no_grad():
        assert torch.equal(again.logits(again(IDS)), model.logits(model(IDS)))
    with pytest.raises(ValueError, match="'bessemer' is none that can be written as GGUF"):
        gguf.write(tmp_path, tmp_path / "model.gguf", "F32", {})


def test_how_weights_began_is_no_trait_of_the_stored_model(tokenizer_folder: Path, tmp_path: Path):
    model = build(zero_out=True)
    weights.save(model, tmp_path, tokenizer_folder, [2])
    assert weights.load(tmp_path).cfg == SMALL


def test_a_table_costs_memory_and_no_products():
    """One gate of 2 heads by 12 channels in each of two blocks, 6 FLOPs a weight."""
    extra = dataclasses.replace(SMALL, value_embed=True)
    assert count.parameters(extra) - count.parameters(SMALL) == 2 * (320 * 16 + 2 * 12)
    assert count.row_flops(extra, 10) - count.row_flops(SMALL, 10) == 6 * 10 * 2 * 2 * 12


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("changes", [{"shape": "encoder"}, {"mixer": "lstm", "position": "none"}, {"ahead": 1}])
def test_models_that_have_no_place_for_it_are_refused(name, changes):
    with pytest.raises(ValueError, match=f"{name} needs shape = decoder, mixer = attention and ahead = 0"):
        settings.parse(ModelConfig, {**settings.plain(SMALL), name: True, **changes}, "model")


def test_a_gate_needs_its_channels():
    with pytest.raises(ValueError, match=r"width \(8\) must be 12 or more for value_embed"):
        ModelConfig(vocab=320, width=8, heads=2, kv_heads=2, value_embed=True)
