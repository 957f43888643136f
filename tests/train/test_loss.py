"""Losses, hand-worked and against all logits at once."""

import math
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bessemer.train import loss


def test_cross_entropy_by_hand():
    """Scores (0, ln 3) are probabilities (1/4, 3/4)."""
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)]]])
    found = loss.cross_entropy(logits, torch.tensor([[0, 1]]))
    torch.testing.assert_close(found, torch.tensor([[math.log(4), math.log(4 / 3)]]))


def test_dpo_by_hand():
    """Chosen gains 2 nats over the reference and rejected loses 1: margin 0.5 * 3; loss -ln sigmoid(1.5). Equal to it: ln 2."""
    policy_chosen, policy_rejected = torch.tensor([-8.0, -5.0]), torch.tensor([-11.0, -6.0])
    reference_chosen, reference_rejected = torch.tensor([-10.0, -5.0]), torch.tensor([-10.0, -6.0])
    found, margin = loss.dpo(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.5)
    torch.testing.assert_close(margin, torch.tensor([1.5, 0.0]))
    torch.testing.assert_close(found, torch.tensor([math.log(1 + math.exp(-1.5)), math.log(2)]))


def head(
    places: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states (2, T, 6), a head of 11 entries with its bias, targets, and what each loss is multiplied by."""
    draw = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (torch.randn(*shape, generator=draw, dtype=dtype) for shape in ((2, places, 6), (11, 6), (11,)))
    targets = torch.randint(0, 11, (2, places), generator=draw)
    return hidden, weight, bias, targets, torch.rand(2, places, generator=draw, dtype=dtype)


@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("places", [0, 1, 5])
def test_the_head_in_chunks_is_the_head_at_once(places: int, biased: bool, cap: float, monkeypatch: pytest.MonkeyPatch):
    """Losses and all gradients against PyTorch's cross-entropy of all logits, in chunks of three places."""
    monkeypatch.setitem(loss.CHUNK, "cpu", 33)
    hidden, weight, bias, targets, factor = head(places)
    results = []
    for ours in (True, False):
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_(), *([bias.clone().requires_grad_()] if biased else [])]
        given = leaves[2] if biased else None
        if ours:
            found = loss.head_cross_entropy(leaves[0], leaves[1], given, targets, cap)
        else:
            logits = torch.nn.functional.linear(leaves[0], leaves[1], given)
            logits = cap * torch.tanh(logits / cap) if cap else logits
            found = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        (found * factor).sum().backward()
        results.append([found, *(leaf.grad for leaf in leaves)])
    assert results[0][0].shape == targets.shape
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


def test_the_head_in_bf16_is_as_exact_as_products_in_bf16_are():
    """Gradients within two roundings of bf16 (2 * 2^-8) of those in fp64, by the size of the largest."""
    hidden, weight, _, targets, factor = head(200)
    found = []
    for autocast in (True, False):
        x, w = (leaf.float() if autocast else leaf for leaf in (hidden, weight))
        x, w = x.requires_grad_(), w.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            cost = loss.head_cross_entropy(x, w, None, targets)
        assert cost.dtype == (torch.float32 if autocast else torch.float64)
        (cost * factor).sum().backward()
        found.append([leaf.grad.double() for leaf in (x, w)])
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < b.abs().max() / 128


class Largest(TorchDispatchMode):
    """The most elements that any fp32 result had."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, torch.Tensor) and one.dtype == torch.float32:
                self.most = max(self.most, one.numel())
        return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kept", [1 << 32, 0])
def test_scores_of_all_places_never_exist_in_fp32(dtype: torch.dtype, kept: int, monkeypatch: pytest.MonkeyPatch):
    """256 places by 500 entries are 128,000 scores; chunks are 8,000, and the weight itself is 4,000."""
    monkeypatch.setitem(loss.CHUNK, "cpu", 8000)
    monkeypatch.setattr(loss, "KEPT", kept)
    hidden, weight = torch.randn(1, 256, 8, requires_grad=True), torch.randn(500, 8, requires_grad=True)
    with Largest() as seen:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            cost = loss.head_cross_entropy(hidden, weight, None, torch.randint(0, 500, (1, 256)))
        cost.sum().backward()
    assert 0 < seen.most <= 8000


def _a_part_of_the_vocabulary(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    hidden, weight, _, targets, factor = head(5)
    weight = weight[:10].float()
    targets, hidden = targets % 10, hidden.float().requires_grad_()
    split = torch.nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)]))
    cost = loss.head_cross_entropy(hidden, split, None, targets, cap=3.0)
    (cost * factor).sum().backward()
    torch.save([cost.detach(), hidden.grad, split.grad.full_tensor()], f"{folder}/{rank}.pt")


def test_a_head_split_over_the_vocabulary_is_the_whole_head(tmp_path: Path):
    torch.multiprocessing.spawn(_a_part_of_the_vocabulary, (str(tmp_path),), nprocs=2)
    hidden, weight, _, targets, factor = head(5)
    weight, targets, hidden = weight[:10].float().requires_grad_(), targets % 10, hidden.float().requires_grad_()
    cost = loss.head_cross_entropy(hidden, weight, None, targets, cap=3.0)
    (cost * factor).sum().backward()
    for rank in range(2):
        for a, b in zip(torch.load(tmp_path / f"{rank}.pt"), [cost.detach(), hidden.grad, weight.grad], strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
