"""Muon: momentum, made orthogonal (Jordan et al. 2024), for matrices and for stacks of them (experts, rows, columns).

Weights may be DTensors: each rank then keeps its share of the momentum.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

ELEMENTS = 2**24  # of one stack on one rank: what bounds the memory of a step
A, B, C = 3.4445, -4.7750, 2.0315  # Jordan's a, b, c


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with Nesterov momentum, decoupled decay and adjust_lr_fn="match_rms_adamw" (Liu et al. 2025, eq. 4).

    Matrices of equal shape are made orthogonal together. A rank that holds shards of a stack gets its share of the stack's matrices
    whole, and gives them back orthogonal: the work is divided, and what comes out is what one process computes.

    groups: as for torch.optim, each with `lr` and `weight_decay`. dtype: of the matrix products.
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(self, groups: list[dict[str, Any]], momentum: float, dtype: torch.dtype):
        super().__init__(groups, {"momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weights in _stacks([weight for weight in group["params"] if weight.grad is not None]):
                self._move(weights, group)

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """One step of weights of one shape. Where found_inf is 1 each line leaves what it writes to as it was, bit for bit."""
        means = [_matrices(self._momentum(weight)) for weight in weights]
        gradient, mean = torch.cat([_matrices(weight.grad, weight) for weight in weights if weight.grad is not None]), torch.cat(means)
        if self.grad_scale is not None:
            gradient /= self.grad_scale
        keep: Tensor | float = 1.0
        if self.found_inf is not None:
            keep = 1 - self.found_inf
            gradient = torch.where(self.found_inf > 0, mean, gradient)  # may be nan, which no factor 0 removes
        mean.lerp_(gradient, 1 - group["momentum"])
        torch._foreach_copy_(means, _apart(mean, means))

        update = self._orthogonal(gradient.lerp_(mean, group["momentum"]), weights[0], len(weights))
        own = [_matrices(weight) for weight in weights]
        rate = group["lr"] * 0.2 * max(weights[0].shape[-2:]) ** 0.5
        torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"] * keep)
        torch._foreach_add_(own, _apart(update.to(own[0].dtype) * (-rate * keep), own))

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]

    def _orthogonal(self, update: Tensor, weight: Tensor, count: int) -> Tensor:
        """This rank's share (n, a, b) of the orthogonal updates, of its share of the updates of `count` weights like `weight`."""
        if self.dtype == torch.bfloat16:  # before anything is sent; fp16 has to wait until the norm is known
            update = update.bfloat16()
        if not distributed(weight) or (weight.dim() == 3 and all(getattr(place, "dim", 0) == 0 for place in weight.placements)):
            return orthogonal(update, self.dtype)  # this rank has whole matrices
        from torch.distributed.tensor import DTensor, Shard

        mesh = weight.device_mesh
        shape = torch.Size(weight.shape if weight.dim() == 3 else (count, *weight.shape))
        stride = torch.empty(shape, device="meta").stride()
        ours = weight.placements if weight.dim() == 3 else [_behind(place) for place in weight.placements]
        whole = [Shard(0)] * mesh.ndim
        sent = DTensor.from_local(update, mesh, ours, run_check=False, shape=shape, stride=stride).redistribute(placements=whole)
        done = orthogonal(sent.to_local(), self.dtype)
        return DTensor.from_local(done, mesh, whole, run_check=False, shape=shape, stride=stride).redistribute(placements=ours).to_local()


def orthogonal(stack: Tensor, dtype: torch.dtype) -> Tensor:
    """Each matrix of (N, rows, columns) with its singular values brought near 1: five steps of Newton and Schulz in `dtype` (Jordan et al. 2024),
    x <- (a I + b g + c g^2) x with g = x x^T, on the smaller side, where the products are cheaper."""
    tall = stack.shape[-2] > stack.shape[-1]
    x = stack.mT if tall else stack
    x = (x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=torch.float32).clamp(min=1e-7)).to(dtype)
    if x.shape[-1] >= 2 * x.shape[-2]:
        x = _by_gram(x)
    else:
        for _ in range(5):
            x = torch.baddbmm(x, _tail(x @ x.mT), x, beta=A)
    return x.mT if tall else x


def _by_gram(x: Tensor) -> Tensor:
    """The same five steps for wide matrices, most of the work done on g, which is small: x <- f x turns g into f g f (Gram Newton-Schulz,
    dao-lab.ai/blog/2026/gram-newton-schulz). A quarter fewer operations at 1 : 2.7, a third at 1 : 4.

    What rounding leaves of g's small eigenvalues grows twelvefold with each step, so after three g is made of x again.
    """
    for steps in (3, 2):
        gram = x @ x.mT
        factor = product = _whole(gram)
        for _ in range(steps - 1):
            gram = factor @ gram @ factor
            factor = _whole(gram)
            product = factor @ product
        x = product @ x
    return x


def _tail(gram: Tensor) -> Tensor:
    """b g + c g^2"""
    return torch.baddbmm(gram, gram, gram, beta=B, alpha=C)


def _whole(gram: Tensor) -> Tensor:
    """a I + b g + c g^2"""
    factor = _tail(gram)
    factor.diagonal(dim1=-2, dim2=-1).add_(A)
    return factor


def distributed(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Whether ranks share this tensor. By its looks: to import the class costs 0.7 s, which one process need not spend."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """This rank's share of a tensor that may be distributed; of a gradient, laid out as its weight `like`."""
    if not distributed(tensor):
        return tensor
    if like is not None and distributed(like) and tensor.placements != like.placements:
        tensor = tensor.redistribute(placements=like.placements)
    return tensor.to_local()


def _matrices(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """This rank's share as a stack (n, a, b), a view."""
    own = local(tensor.detach(), like)
    return own if own.dim() == 3 else own[None]


def _apart(stack: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    return list(stack.split([len(tensor) for tensor in like]))


def _behind(place: Any) -> Any:
    """Where a matrix's placement lies in a stack of matrices: a dimension later, strided or not."""
    if not hasattr(place, "dim"):
        return place
    strided = {"split_factor": place.split_factor} if hasattr(place, "split_factor") else {}
    return type(place)(place.dim + 1, **strided)


def _stacks(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices that can be handled in one go: of one shape and layout. Stacks of experts are handled one by one."""
    alike: dict[Any, list[Tensor]] = {}
    for weight in weights:
        layout = (weight.device_mesh, weight.placements) if distributed(weight) else weight.device
        alike.setdefault((weight.shape, layout, id(weight) if weight.dim() == 3 else None), []).append(weight)
    for same in alike.values():
        ranks = same[0].device_mesh.size() if distributed(same[0]) else 1
        size = max(1, ELEMENTS * ranks // max(same[0].numel(), 1))  # the same on every rank
        yield from (same[begin : begin + size] for begin in range(0, len(same), size))
