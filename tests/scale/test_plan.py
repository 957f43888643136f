"""What a plan promises, by hand."""

import pytest

from bessemer.core import device
from bessemer.model.config import ModelConfig
from bessemer.scale import plan


def test_costs_by_hand(monkeypatch: pytest.MonkeyPatch):
    """Half of a rate of 1e9 makes 1e10 FLOPs in 20 seconds; the checkpoint is fp32. Width 8: 192 + 384 in the block, embedding 80, norms 24."""
    monkeypatch.setattr(device, "matmul_rate", lambda where, dtype: 1e9)
    tiny = ModelConfig(vocab=10, width=8, depth=1, heads=2, kv_heads=1, hidden=16, context=16)
    assert plan.cost(tiny, 1e10, "fp32") == {"flops": 1e10, "bytes": 4 * 680, "seconds": 20.0}
