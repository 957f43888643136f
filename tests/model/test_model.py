"""The decoder against transformers' Llama, and against itself with a cache."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bessemer.model import weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.model.seen import Cache
from bessemer.scale import count

SMALL = ModelConfig(vocab=320, width=32, depth=2, heads=4, kv_heads=2, head_width=8, hidden=48, context=64)
IDS = torch.randint(0, 320, (3, 40), generator=torch.Generator().manual_seed(1))


def build(**changes) -> Model:
    model = Model(dataclasses.replace(SMALL, **changes)).eval()
    initialise(model, 1)
    return model


@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"kv_heads": 4}, {"kv_heads": 1}, {"head_width": 16}, {"rope_base": 500.0}])
def test_the_checkpoint_opens_in_transformers_with_equal_logits(changes, tokenizer_folder: Path, tmp_path: Path):
    model = build(**changes)
    weights.save(model, tmp_path, tokenizer_folder, [2, 0])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(theirs, LlamaForCausalLM) and theirs.generation_config.eos_token_id == [2, 0]
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(IDS)), theirs(IDS).logits, atol=1e-5, rtol=1e-5)
        again = weights.load(tmp_path)
        assert torch.equal(again.logits(again(IDS)), model.logits(model(IDS)))


def test_a_checkpoint_of_transformers_opens_here(tmp_path: Path):
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = weights.load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(IDS)), theirs(IDS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [(40,), (1,) * 40, (7, 1, 20, 12)])
def test_cached_decoding_equals_the_full_forward(steps):
    model, at, found = build(), 0, []
    cache = Cache(model.cfg, 3, 48)
    with torch.no_grad():
        for size in steps:
            positions = torch.arange(at, at + size).expand(3, -1)
            found.append(model(IDS[:, at : at + size], positions, cache=cache))
            at += size
        torch.testing.assert_close(torch.cat(found, 1), model(IDS), atol=1e-5, rtol=1e-4)


def test_rows_of_different_length_share_a_cache():
    """What padding wrote behind the short row is overwritten before it is seen."""
    model, cache = build(), Cache(SMALL, 2, 20)
    rows = IDS[:2, :12].clone()
    rows[0, 5:] = 0  # the first row has 5 tokens and padding
    with torch.no_grad():
        model(rows, torch.arange(12).expand(2, -1), cache=cache)
        token = torch.tensor([[7], [8]])
        found = model(token, torch.tensor([[5], [12]]), cache=cache)
        for row, length in ((0, 5), (1, 12)):
            alone = model(torch.cat([IDS[row : row + 1, :length], token[row : row + 1]], 1))[:, -1]
            torch.testing.assert_close(found[row : row + 1, 0], alone, atol=1e-5, rtol=1e-4)


def test_no_token_sees_the_future():
    model = build()
    changed = IDS.clone()
    changed[:, 25] = (changed[:, 25] + 1) % 320
    with torch.no_grad():
        a, b = model(IDS), model(changed)
    assert torch.equal(a[:, :25], b[:, :25]) and not torch.equal(a[:, 25:], b[:, 25:])


def test_counts_are_exact():
    for changes in ({}, {"tied": False}, {"ffn": "dense", "act": "relu2"}, {"kv_heads": 1}):
        model = build(**changes)
        assert count.parameters(model.cfg) == sum(weight.numel() for weight in model.parameters())
    # By hand for SMALL: block matrices 32*8*(8+4) + 3*32*48 = 7680, twice; head 320*32 = 10240; attention 12*2*4*8*64 = 49152.
    assert count.training_flops(SMALL, 64) == 6 * (2 * 7680 + 10240) + 49152


def test_initialisation_is_fixed_by_the_seed():
    assert all(torch.equal(a, b) for a, b in zip(build().parameters(), build().parameters(), strict=True))
    other = Model(SMALL)
    initialise(other, 2)
    assert not torch.equal(other.embed.weight, build().embed.weight)


def test_what_writes_into_the_residual_stream_starts_smaller():
    """Std 0.02 / sqrt(2 * 8) = 0.005 at depth 8, all other matrices 0.02; gains 1, biases 0."""
    for changes in ({"bias": "all", "norm": "layer"}, {"ffn": "moe", "shared_experts": 1}, {"shape": "encdec"}):
        model = build(width=64, depth=8, heads=4, head_width=16, hidden=96, **changes)
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                assert torch.equal(weight, torch.zeros_like(weight) if name.endswith("bias") else torch.ones_like(weight)), name
            else:
                writes = name.endswith(("out.weight", "down.weight", "down"))
                assert weight.std().item() == pytest.approx(0.005 if writes else 0.02, rel=0.1), name


def test_a_tied_head_is_the_embedding_and_stays_so(tokenizer_folder: Path, tmp_path: Path):
    model = build(position="learned", norm="layer")
    assert model.head.weight is model.embed.weight
    weights.save(model, tmp_path, tokenizer_folder, [2])
    assert (again := weights.load(tmp_path)).head.weight is again.embed.weight
    untied = build(tied=False)
    assert not torch.equal(untied.head.weight, untied.embed.weight)


def test_what_predicts_further_ahead_is_for_training_alone(tokenizer_folder: Path, tmp_path: Path):
    """It does not change what the model says, with or without a cache, and is not saved."""
    model, plain = build(ahead=2), build()
    plain.load_state_dict({name: weight for name, weight in model.state_dict().items() if not name.startswith("further.")})
    with torch.no_grad():
        hidden, cache = model(IDS), Cache(model.cfg, 3, 40)
        assert torch.equal(hidden, plain(IDS)) and len(cache.slots) == 2
        torch.testing.assert_close(model(IDS, torch.arange(40).expand(3, -1), cache=cache), hidden, atol=1e-5, rtol=1e-4)
        further = model.ahead(hidden)
        assert [one.shape for one in further] == [hidden.shape] * 2 and not torch.allclose(*further, atol=1e-3)
    weights.save(model, tmp_path, tokenizer_folder, [2])
    again = weights.load(tmp_path)
    assert again.cfg.ahead == 0 and not list(again.further)


def test_routing_speaks_of_the_last_pass_alone():
    """Also where blocks that predict ahead ran in the pass before, and not in this one; and padding counts nowhere."""
    model = build(ffn="moe", experts=4, ahead=1)
    segment = (torch.arange(40) < 30).long().expand(3, -1)
    hidden = model(IDS, segment=segment)
    assert len(model.routing) == 2
    model.ahead(hidden, segment=segment)
    assert len(model.routing) == 3
    alone = model.further[0].routing[0].load
    model(IDS[:2])
    assert len(model.routing) == 2 and all(len(one.load) == 2 for one in model.routing)
    model.ahead(hidden[:, :30])
    torch.testing.assert_close(model.further[0].routing[0].load, alone)


def test_damaged_checkpoints_are_named(tokenizer_folder: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is not a checkpoint"):
        weights.load(tmp_path)
    weights.save(build(), tmp_path, tokenizer_folder, [2])
    config = (tmp_path / "config.json").read_text()
    for change, said in [
        (('"llama"', '"mamba"'), "model_type 'mamba' is not supported"),
        (('"num_hidden_layers": 2', '"num_hidden_layers": 3'), "missing"),
        (('"num_hidden_layers": 2', '"num_hidden_layers": 1'), "unknown"),
        (('"intermediate_size": 48', '"intermediate_size": 50'), "the configuration asks for"),
    ]:
        (tmp_path / "config.json").write_text(config.replace(*change))
        with pytest.raises(ValueError, match=said):
            weights.load(tmp_path)
    (tmp_path / "config.json").write_text(config)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or cut off"):
        weights.load(tmp_path)
