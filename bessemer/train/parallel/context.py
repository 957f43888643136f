"""Context parallelism: ranks that share out each row along the text. A rank's queries stay, keys and values are gathered (Llama Team 2024,
section 3.3.2), since with grouped heads they are small beside the scores.

Where only the past is seen, late places have most to do. So a row is cut into 2G chunks, and each of G ranks takes an early and a late one.

B rows, T tokens, H query heads, K key-value heads, D head width, G ranks that share out a row.
"""

from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from bessemer.model.attend import See, attend
from bessemer.model.attention import Attention
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model
from bessemer.train.objective import Batch
from bessemer.train.parallel import mesh
from bessemer.train.parallel.shared import Shared

ALONG = ("tokens", "targets", "token_weight", "at", "segment", "prefix", "types")  # columns that are (B, T), a number for each token


class ByPlace(Shared):
    """Data parallelism in which G neighbours read T / G places each of the same rows."""

    def cut(self, model: Model) -> list[nn.Parameter]:
        assert self.ranks is not None
        check(model.cfg)
        near = mesh.nearby(self.ranks, self.cfg.mesh.context, "context")
        self.group, self.me, self.of = near.get_group("context"), near.get_local_rank("context"), self.cfg.mesh.context
        self.known: tuple[Tensor | None, See] = (None, See())
        for part in model.modules():
            if isinstance(part, Attention):
                part.look = self.look  # type: ignore[method-assign]
        return []

    def share(self, batch: Batch) -> Batch:
        return part_of(batch, self.me, self.of)

    @torch.compiler.disable
    def look(self, query: Tensor, key: Tensor, value: Tensor, see: See) -> Tensor:
        """Attention.look of queries at this rank's places (B, H, T / G, D) at the keys and values of all places."""
        key, value = Gathered.apply(torch.stack([key.to(value.dtype), value]), self.group)
        return attend(query, key, value, self._seen(see, query))

    def _seen(self, see: See, query: Tensor) -> See:
        """`see` among the keys of all places. It says the same to all blocks of a pass, so it is made once."""
        if self.known[0] is not see.segment or self.known[1].at is None or see.segment is None:
            tokens = query.shape[2] * self.of
            at = places(self.me, self.of, tokens, query.device).expand(query.shape[0], -1)
            segment, prefix = (None if column is None else _gathered(column, self.group, 1) for column in (see.segment, see.prefix))
            self.known = (see.segment, see._replace(at=at, key_segment=segment, prefix=prefix, blocks=None))
        return self.known[1]


def check(cfg: ModelConfig) -> None:
    """ValueError where a row of this model cannot be read by several ranks."""
    reason = None
    if cfg.mixer != "attention" or cfg.shape == "encdec":
        reason = f"attention of a text with itself, not shape = {cfg.shape}, mixer = {cfg.mixer}"
    elif cfg.position in ("relative", "bias"):
        reason = f"positions that are added or turned, not position = {cfg.position}"
    elif cfg.ffn == "moe":
        reason = "feed-forwards that count no tokens, not ffn = moe"
    elif cfg.ahead:
        reason = "the next token only, not ahead"
    if reason:
        raise ValueError(f"mesh: context is for {reason}")


def part_of(batch: Batch, rank: int, of: int) -> Batch:
    """The places of a batch's rows that a rank reads. ValueError where the rows cannot be cut."""
    for name in batch:
        if name not in (*ALONG, "row_weight"):
            raise ValueError(f"mesh: context cuts rows along the text, and these have a column {name!r} that is no number for each token")
    rows, tokens = batch["tokens"].shape
    if tokens % (2 * of):
        raise ValueError(f"mesh: context = {of} cuts a row into {2 * of} chunks of one length, and rows have {tokens} tokens")
    own = places(rank, of, tokens, batch["tokens"].device)
    at = batch["at"] if "at" in batch else torch.arange(tokens, device=own.device).expand(rows, -1)
    return {name: column[:, own] if name in ALONG else column for name, column in {**batch, "at": at}.items()}


def places(rank: int, of: int, tokens: int, device: torch.device) -> Tensor:
    """(T / G,) the places of a row that a rank reads: chunk `rank` from the front and the same from the back."""
    size = tokens // (2 * of)
    early = torch.arange(size, device=device)
    return torch.cat([early + rank * size, early + (2 * of - 1 - rank) * size])


class Gathered(torch.autograd.Function):
    """(..., T, D) in the order of the text from this rank's (..., T / G, D). Gradients of a place add up over the ranks, in fp32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _gathered(x, group, x.dim() - 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        of = distributed.get_world_size(ctx.group)
        full = torch.promote_types(grad.dtype, torch.float32)
        shares = [grad.index_select(-2, places(rank, of, grad.shape[-2], grad.device)).to(full) for rank in range(of)]
        out = torch.empty_like(shares[0])
        distributed.reduce_scatter(out, shares, group=ctx.group)
        return out.to(grad.dtype), None


def _gathered(x: Tensor, group: ProcessGroup, axis: int) -> Tensor:
    """The shares of all ranks, put in the order of the text along `axis`."""
    of = distributed.get_world_size(group)
    shares = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(of)]
    distributed.all_gather(shares, x.contiguous(), group=group)
    order = torch.cat([places(rank, of, x.shape[axis] * of, x.device) for rank in range(of)]).argsort()
    return torch.cat(shares, axis).index_select(axis, order)
