"""Muon against torch's, against its recurrence in fp64, and on shards against one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bessemer.train.optimizers import muon
from bessemer.train.optimizers.muon import Muon, orthogonal

SHAPES = [(16, 24), (24, 16), (16, 24), (16, 16), (3, 16, 8), (2, 8, 16)]


def drawn(seed: int, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw) for shape in shapes]


def ours(weights: list[nn.Parameter], dtype: torch.dtype = torch.float32) -> Muon:
    return Muon([{"params": weights, "lr": 0.1, "weight_decay": 0.1}], 0.95, dtype)


def give(weights: list[nn.Parameter], gradients: list[Tensor]) -> None:
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.clone()


def test_matrices_move_as_in_torch_and_stacks_as_their_matrices():
    """Four steps against torch.optim.Muon, which works in bf16: its rounding is the tolerance."""
    weights = [nn.Parameter(weight) for weight in drawn(1)]
    matrices = [[nn.Parameter(matrix.clone()) for matrix in (weight.detach() if weight.dim() == 3 else weight.detach()[None])] for weight in weights]
    theirs = torch.optim.Muon([m for stack in matrices for m in stack], lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    update = ours(weights, torch.bfloat16)
    for step in range(4):
        gradients = drawn(10 + step)
        give(weights, gradients)
        for stack, gradient in zip(matrices, gradients, strict=True):
            give(stack, list(gradient) if gradient.dim() == 3 else [gradient])
        before = [weight.detach().clone() for weight in weights]
        update.step()
        theirs.step()
        for weight, stack, was in zip(weights, matrices, before, strict=True):
            assert (weight - was).abs().max() > 0.03
            expected = torch.stack([matrix.detach() for matrix in stack]).view_as(weight)
            torch.testing.assert_close(weight.detach(), expected, atol=0.02, rtol=0.02)


def recurrence(matrix: Tensor) -> Tensor:
    """x <- a x + (b x x^T + c (x x^T)^2) x, five times, in fp64 and one matrix at a time."""
    x = matrix.double() / max(matrix.double().norm().item(), 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(3, 12, 20), (2, 20, 12), (2, 8, 20), (2, 32, 8), (1, 1, 5), (0, 8, 20), (0, 8, 8)])
def test_in_fp32_it_follows_the_recurrence(shape: tuple[int, ...]):
    """Also where the steps are taken on x x^T, which is where a side is twice the other."""
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonal(stack, torch.float32)
    assert found.shape == stack.shape
    for matrix, one in zip(stack, found, strict=True):
        torch.testing.assert_close(one.double(), recurrence(matrix), atol=5e-5, rtol=5e-5)
        assert torch.linalg.svdvals(one).min() > 0.6
    assert torch.equal(orthogonal(torch.zeros(1, 4, 9), torch.float32), torch.zeros(1, 4, 9))


@pytest.mark.parametrize("spectrum", ["flat", "few", "falling"])
def test_in_bf16_no_direction_grows_beyond_what_the_steps_allow(spectrum: str):
    """Singular values end between 0.7 and 1.2 (Jordan et al. 2024). What rounding makes of the smallest ones must not explode."""
    draw = torch.Generator().manual_seed(1)
    for shape in ((48, 64), (48, 192)):
        left, _ = torch.linalg.qr(torch.randn(shape[0], shape[0], generator=draw))
        right, _ = torch.linalg.qr(torch.randn(shape[1], shape[0], generator=draw))
        values = {"flat": torch.ones(48), "few": (torch.arange(48) < 3).float(), "falling": torch.logspace(0, -6, 48)}[spectrum]
        matrix = (left * values) @ right.mT
        found = orthogonal(matrix[None], torch.bfloat16)[0].double()
        assert torch.linalg.svdvals(found).max() < 1.3
        seen = left[:, values > 0.05].double()  # where the gradient says something, the update says the same
        expected = seen.mT @ recurrence(matrix)
        assert (seen.mT @ found - expected).norm() < 0.1 * expected.norm()


def test_matrices_are_stacked_within_bounds_and_come_out_the_same(monkeypatch: pytest.MonkeyPatch):
    ends = []
    for bound in (2**24, 400):  # 400: one matrix at a time
        monkeypatch.setattr(muon, "ELEMENTS", bound)
        weights = [nn.Parameter(weight) for weight in drawn(1, [(16, 24)] * 5)]
        sizes = [len(stack) for stack in muon._stacks(weights)]
        assert sizes == ([5] if bound > 400 else [1] * 5)
        update = ours(weights)
        for step in range(2):
            give(weights, drawn(step, [(16, 24)] * 5))
            update.step()
        ends.append([weight.detach() for weight in weights])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_fp16_survives_gradients_that_it_cannot_hold():
    """Moments of 1e-8 are 0 in fp16, those of 1e6 infinite: the norm is taken first."""
    stack = torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(1))
    expected = orthogonal(stack, torch.float32)
    for scale in (1e-8, 1e6):
        torch.testing.assert_close(orthogonal(stack * scale, torch.float16).float(), expected, atol=0.02, rtol=0.02)


def test_a_weight_without_gradient_stays():
    still, moving = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    moving.grad = torch.eye(4)
    ours([still, moving]).step()
    assert torch.equal(still, torch.ones(4, 4)) and not torch.equal(moving, torch.ones(4, 4))


def test_shards_are_trained_as_one_process_trains_the_whole():
    """Four processes: sharded, sharded and copied, sharded and tensor parallel; every optimizer, and the average (sharded.py says what)."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "4", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, str(Path(__file__).with_name("sharded.py"))]
    started = [
        subprocess.Popen(program, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(4)
    ]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(said)
