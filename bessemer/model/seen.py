"""What the blocks of one forward pass share: positions, who sees whom, the encoded source; and the cache that decoding needs."""

from typing import NamedTuple

import torch
from torch import Tensor

from bessemer.model.attend import See
from bessemer.model.config import Architecture

Slot = dict[str, Tensor]  # what one block remembers of the text so far; rows are dimension 0 of every tensor


class Pass(NamedTuple):
    """B rows, T tokens, S keys."""

    at: Tensor  # (B or 1, T) position of each token in its document
    see: See  # which keys a token may see
    across: See = See()  # which tokens of the source
    turn: tuple[Tensor, Tensor] | None = None  # rope's cosine and sine, (B or 1, 1, T, D)
    distance: Tensor | None = None  # (B or 1, T, S) key minus query, where positions are relative
    begins: Tensor | None = None  # (B, T) True where a document begins: what reads in order forgets what it read
    live: Tensor | None = None  # (B, T) False where padding follows a row's last token: what reads in order must not read it
    counted: Tensor | None = None  # (B, T) False where padding stands: it counts in no statistics
    ids: Tensor | None = None  # (B, T) the tokens themselves
    memory: Tensor | None = None  # (B, S, C) the encoded source


class Cache:
    """What has been read so far, a slot a block. `length`: positions that fit."""

    def __init__(self, cfg: Architecture, rows: int, length: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        if cfg.shape == "encoder":
            raise ValueError("an encoder reads whole texts: it has no cache and continues nothing")
        self.length = length
        self.memory_segment: Tensor | None = None  # (B, S) which places of the encoded source are text
        self.slots: list[Slot] = [{} for _ in range(cfg.depth)]
        if cfg.mixer == "attention":  # what reads in order makes its state itself
            for slot in self.slots:
                for name in ("keys", "values"):
                    slot[name] = torch.zeros(rows, cfg.kv_heads, length, cfg.head_width, device=device, dtype=dtype)
