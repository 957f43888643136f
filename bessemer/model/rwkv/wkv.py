"""RWKV-7's recurrence (Peng et al. 2025, arXiv 2503.14456), one token at a time and in chunks of many.

Each head keeps a matrix S (keys by values, D x D). A token lets it decay, takes something out, and writes:

    S_t = diag(w_t) S_(t-1) + b_t (a_t^T S_(t-1)) + k_t v_t^T          y_t = r_t^T S_t

S is the paper's transposed. B rows, T tokens, H heads, D head width, L tokens of a chunk, N chunks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# A decay is at least exp(-exp(-0.5)) = 0.545, so 1 / (w_1 ... w_L) stays below 3e8, far from overflow. 16 is as fast and keeps more states.
CHUNK = 32


def wkv(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor | None = None, begins: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y (B, T, H, D) and the last state (B, H, D, D) of inputs (B, T, H, D); all in fp32 at least.

    log_w: logarithm of the decay, -exp(-0.5) to 0. state: what earlier tokens left; none: zeros. begins (B, T): True where a
    document starts, which sees nothing of what stands before.
    """
    dtype = torch.promote_types(r.dtype, torch.float32)
    with torch.autocast(r.device.type, enabled=False):
        r, log_w, k, v, a, b = (x.to(dtype) for x in (r, log_w, k, v, a, b))
        if state is None:
            state = r.new_zeros(r.shape[0], *r.shape[2:], r.shape[3])
        if r.shape[1] == 1 and begins is None:
            return one_token(r, log_w, k, v, a, b, state)
        return in_chunks(r, log_w, k, v, a, b, state, begins)


def one_token(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence itself, for T = 1."""
    r, w, k, a, b = (x[:, 0, :, :, None] for x in (r, log_w.exp(), k, a, b))  # (B, H, D, 1)
    state = w * state + b * (a.mT @ state) + k * v[:, 0, :, None]
    return (r.mT @ state).transpose(1, 2), state


def in_chunks(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor, begins: Tensor | None) -> tuple[Tensor, Tensor]:
    """The recurrence as matrix products.

    Let W_t be the product of the decays from the chunk's start to t, S the state there, and u_t = a_t^T S_(t-1). Unrolled,

        S_t = diag(W_t) (S + sum over i <= t of (b_i u_i^T + k_i v_i^T) / W_i)

    so U (L, D) solves a triangular system, (I - tril(A B^T, -1)) U = A S + tril(A K^T, -1) V, with rows A = a_t W_(t-1), B = b_t / W_t,
    K = k_t / W_t. All but S is known beforehand: y and the next S are linear in it, with matrices computed for all chunks at once.
    """
    tokens = r.shape[1]
    r, log_w, k, v, a, b = (_fold(x) for x in (r, log_w, k, v, a, b))
    total = log_w.cumsum(-2)
    grown = (-total).exp()
    left = torch.cat([a * (total - log_w).exp(), r * total.exp()], -2)
    right = torch.cat([b * grown, k * grown], -2)
    end = total[..., -1, :, None].exp()  # what is left of S at the chunk's end, (N, B, H, D, 1)
    see = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=r.device).tril()
    scores = left @ right.mT  # (N, B, H, 2L, 2L)
    kept = end
    if begins is not None:
        document = F.pad(begins, (0, -tokens % CHUNK)).unflatten(1, (-1, CHUNK)).transpose(0, 1)[:, :, None].cumsum(-1)  # (N, B, 1, L)
        see = see & (document[..., :, None] == document[..., None, :])
        old = document[..., None] == 0  # tokens of the document that was open at the chunk's start
        left = left * old.repeat(1, 1, 1, 2, 1)
        right = right * (document[..., None] == document[..., -1:, None]).repeat(1, 1, 1, 2, 1)
        kept = end * old[..., -1:, :]
    scores = scores * torch.cat([torch.cat([see.tril(-1)] * 2, -1), torch.cat([see] * 2, -1)], -2)
    (a, r), (b, k) = left.chunk(2, -2), right.chunk(2, -2)
    ab, ak, rb, rk = (half for pair in scores.chunk(2, -2) for half in pair.chunk(2, -1))  # (N, B, H, L, L) each

    solved = _inverse(ab) @ torch.cat([a, ak], -1)  # U = solved [S; V]
    out = torch.cat([r, rk], -1) + rb @ solved  # y = out [S; V]
    from_state, from_value = solved.split([a.shape[-1], CHUNK], -1)
    across = torch.diag_embed(kept.squeeze(-1)) + end * (b.mT @ from_state)
    added = end * ((k + from_value.mT @ b).mT @ v)
    states = carry(across, added, state)

    from_state, from_value = out.split([a.shape[-1], CHUNK], -1)
    y = from_state @ states[:-1] + from_value @ v
    return y.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :tokens], states[-1]


def _fold(x: Tensor) -> Tensor:
    """(B, T, H, D) in chunks, (N, B, H, L, D). Zeros fill the last: a decay of 1, and nothing to take out or write."""
    return F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % CHUNK)).unflatten(1, (-1, CHUNK)).permute(1, 0, 3, 2, 4)


def _inverse(lower: Tensor) -> Tensor:
    """(I - lower)^-1 of strictly lower triangular matrices (..., L, L), by doubling the size of the inverted blocks on the diagonal.

    As stable as substitution. The shorter (I + X)(I + X^2)(I + X^4)... is not: where one token repeats, its powers grow like binomial
    coefficients and cancel.
    """
    at = torch.arange(lower.shape[-1], device=lower.device)
    inverse = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    size = 1
    while size < lower.shape[-1]:
        block = at // size
        corner = (block[:, None] % 2 == 1) & (block[:, None] == block + 1)  # below the diagonal of each pair of blocks
        inverse = inverse + inverse @ (lower * corner) @ inverse
        size *= 2
    return inverse


@torch.library.custom_op("bessemer::carry", mutates_args=())
def carry(across: Tensor, added: Tensor, state: Tensor) -> Tensor:
    """The states (N + 1, B, H, D, D) at the chunks' ends, the given one first: S_(n+1) = across_n S_n + added_n.

    The one loop over time. An operator of its own, so that torch.compile does not unroll it.
    """
    states = added.new_empty(len(added) + 1, *added.shape[1:])
    states[0] = state
    flat, across, added = states.flatten(1, 2), across.flatten(1, 2), added.flatten(1, 2)
    for n in range(len(added)):
        torch.baddbmm(added[n], across[n], flat[n], out=flat[n + 1])
    return states


@torch.library.custom_op("bessemer::carry_back", mutates_args=())
def carry_back(across: Tensor, gradient: Tensor) -> Tensor:
    """The gradients (N + 1, B, H, D, D) of the states, each with what reaches it through the later ones."""
    total = gradient.clone(memory_format=torch.contiguous_format)
    flat, across = total.flatten(1, 2), across.flatten(1, 2)
    for n in reversed(range(len(across))):
        flat[n].baddbmm_(across[n].mT, flat[n + 1])
    return total


@carry.register_fake
def _(across: Tensor, added: Tensor, state: Tensor) -> Tensor:
    return added.new_empty(len(added) + 1, *added.shape[1:])


@carry_back.register_fake
def _(across: Tensor, gradient: Tensor) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    across, states = ctx.saved_tensors
    total = carry_back(across, gradient)
    return total[1:] @ states[:-1].mT, total[1:].clone(), total[0].clone()


carry.register_autograd(_backward, setup_context=_keep)
