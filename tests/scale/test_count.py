"""Counts by hand, and against what PyTorch counts while a model runs."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.scale import count
from bessemer.train.objective import Batch, hidden_of

# 2 heads of 4, one of keys: query and out 2 * 64, key and value 2 * 32, together 192; gated 3 * 8 * 16 = 384; embedding 80.
TINY = ModelConfig(vocab=10, width=8, depth=1, heads=2, kv_heads=1, hidden=16, context=16)
MOE = dataclasses.replace(TINY, ffn="moe", experts=4, top_k=2, shared_experts=1)


def test_a_decoder_by_hand():
    """Parameters: 192 + 384 + 80 and three norms of 8. Five tokens: 6 * 5 * 656, and pairs 12 * 2 * 4 * 5 * 5 = 2400; of a window of 2,
    12 * 8 * 5 * 2 = 960."""
    assert count.parameters(TINY) == count.active_parameters(TINY) == 192 + 384 + 80 + 24
    assert count.row_flops(TINY, 5) == 6 * 5 * 656 + 2400
    assert count.row_flops(dataclasses.replace(TINY, window=2), 5) == 6 * 5 * 656 + 960
    assert count.training_flops(TINY, 5) == (6 * 5 * 656 + 2400) / 5


def test_an_untied_head_and_tokens_further_ahead_by_hand():
    """A head of its own has 80 weights more and costs the same. A token further ahead: one block of 576 and two norms, one behind it, and
    the head once more; its attention counts too."""
    assert count.parameters(dataclasses.replace(TINY, tied=False)) == 680 + 80
    assert count.row_flops(dataclasses.replace(TINY, tied=False), 5) == count.row_flops(TINY, 5)
    ahead = dataclasses.replace(TINY, ahead=1)
    assert count.parameters(ahead) == 680 + 576 + 24
    assert count.row_flops(ahead, 5) == 6 * 5 * (656 + 576 + 80) + 2 * 2400


def test_an_encoder_decoder_by_hand():
    """5 tokens that read 7. The encoder's block has 576 weights, the decoder's 192 more. Its keys and values of the source, 64 weights,
    work on 7 tokens, all else of it on 5. Pairs: 7 * 7, 5 * 5 and 5 * 7."""
    cfg = dataclasses.replace(TINY, shape="encdec")
    assert count.parameters(cfg) == 80 + 576 + 768 + 24 + 32
    assert count.row_flops(cfg, 5, 7) == 6 * 5 * (768 - 64 + 80) + 6 * 7 * (64 + 576) + 12 * 8 * (49 + 25 + 35)
    assert count.training_flops(cfg, 6) == count.row_flops(cfg, 6, 6) / 12


def test_experts_by_hand():
    """A router of 32, four experts of 384, one that all visit; a token visits two of the four."""
    assert count.parameters(MOE) == 680 - 384 + 32 + 5 * 384
    assert count.active_parameters(MOE) == count.parameters(MOE) - 2 * 384
    assert count.row_flops(MOE, 5) == 6 * 5 * (192 + 32 + 3 * 384 + 80) + 2400


def test_rwkv_by_hand():
    """Width 32, ranks 4, 4, 4, 8: a layer has 4 * 1024 and 2 * 32 * (4 + 4 + 8), the second also 2 * 32 * 4; the channel mix 2 * 32 * 64;
    the head 320. A token's state costs four products with D x D matrices a head, 2 * 4 * 32 * 16 forward."""
    cfg = ModelConfig(vocab=10, width=32, depth=2, heads=2, hidden=64, mixer="rwkv", ffn="channel", position="none", ranks=(4, 4, 4, 8))
    matrices = 2 * (4 * 1024 + 64 * 16 + 2 * 32 * 64) + 64 * 4 + 320
    assert count.row_flops(cfg, 5) == 6 * 5 * matrices + 2 * 5 * 3 * (2 * 4 * 32 * 16)


def test_an_lstm_by_hand():
    cfg = dataclasses.replace(TINY, mixer="lstm", position="none")
    assert count.parameters(cfg) == 2 * 32 * 8 + 32 + 384 + 80 + 24
    assert count.row_flops(cfg, 5) == 6 * 5 * (2 * 256 + 384 + 80)


IDS = torch.randint(0, 10, (3, 14), generator=torch.Generator().manual_seed(0))
SOURCE = {"source_tokens": IDS[:, :9], "source_segment": torch.ones(3, 9, dtype=torch.long), "source_at": torch.arange(9).expand(3, -1)}
PICKED = {"picked": torch.tensor([[0, 3, 5]] * 3)}
COUNTED: dict[str, tuple[dict, dict]] = {
    "decoder": ({}, {}),
    "learned, dense, untied": ({"position": "learned", "ffn": "dense", "tied": False, "bias": "all"}, {}),
    "shaw": ({"position": "relative", "reach": 3}, {}),
    "bias": ({"position": "bias"}, {}),
    "encoder": ({"shape": "encoder"}, PICKED),
    "encoder-decoder": ({"shape": "encdec", "encoder_depth": 3}, SOURCE),
    "a class a text": ({"shape": "encoder", "head": "sequence", "labels": 3}, PICKED),
    "a number a place": ({"head": "scalar"}, {}),
}


@pytest.mark.parametrize("name", COUNTED)
@torch.no_grad()
def test_counts_are_what_pytorch_counts(name: str):
    """A third of the training: the forward pass, whose products of all pairs PyTorch sees one by one."""
    fields, columns = COUNTED[name]
    cfg = dataclasses.replace(TINY, depth=2, **fields)
    model = Model(cfg)
    initialise(model, 0)
    batch: Batch = {"tokens": IDS, **columns}
    with FlopCounterMode(display=False) as counter:
        hidden = hidden_of(model, batch)
        _ = model.logits(hidden) if cfg.has_lm else model.classify(hidden)
    source = 9 if "source_tokens" in batch else 0
    predicted = 3 if "picked" in batch else None
    assert counter.get_total_flops() == len(IDS) * count.row_flops(cfg, 14, source, predicted) / 3
    assert count.parameters(cfg) == sum(weight.numel() for weight in model.parameters())
