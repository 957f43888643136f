"""Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) as the mixer of a block.

B rows, T tokens, C width.
"""

import torch
from torch import Tensor, nn

from bessemer.model.config import Architecture
from bessemer.model.seen import Pass, Slot

SHUT = 1e4  # the sigmoid of minus this is exactly 0, of plus this exactly 1, in every precision


class Lstm(nn.Module):
    """mix(x, seen, slot, first), as wide inside as outside. Gates stand in torch.nn.LSTM's order, input, forget, candidate, output;
    its two biases, of which only the sum matters, are one."""

    def __init__(self, cfg: Architecture, layer: int):
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * cfg.width, cfg.width))
        self.weight_hh = nn.Parameter(torch.empty(4 * cfg.width, cfg.width))
        self.bias = nn.Parameter(torch.empty(4 * cfg.width))
        self.initialise(None)

    @torch.no_grad()
    def initialise(self, draw: torch.Generator | None) -> None:
        """Glorot-uniform from the input and orthogonal over time, so that at first neither signal nor gradient fades or grows; the
        forget gate's bias is 1: the cell remembers before it has learned what to forget (Jozefowicz et al. 2015)."""
        for weight in self.weight_ih.chunk(4):
            nn.init.xavier_uniform_(weight, generator=draw)
        for weight in self.weight_hh.chunk(4):
            nn.init.orthogonal_(weight, generator=draw)
        for bias, start in zip(self.bias.chunk(4), (0.0, 1.0, 0.0, 0.0), strict=True):
            bias.fill_(start)

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None, first: Tensor | None) -> tuple[Tensor, Tensor | None]:
        state = (slot["hidden"], slot["cell"]) if slot else None
        out, hidden, cell = recur(x, self.weight_ih, self.weight_hh, self.bias, state, seen.begins, seen.live)
        if slot is not None:
            slot["hidden"], slot["cell"] = hidden, cell
        return out, first


@torch.compiler.disable  # torch.compile would unroll the loop over time
def recur(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    state: tuple[Tensor, Tensor] | None = None,
    begins: Tensor | None = None,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (B, T, C) of x (B, T, C); hidden and cell (B, C) after each row's last live token.

    A row goes on from `state` (hidden, cell), from zero where it is None. A document begins from zero where `begins` (B, T) is True.
    Where `live` (B, T) is False, to the right of a row's tokens, nothing changes. It runs in the precision of the weights also under
    autocast: a cell in bf16 loses what is small beside its sum, and saves little time (docs/log.md).
    """
    rows, _, width = x.shape
    hidden, cell = state or (weight_hh.new_zeros(rows, width),) * 2
    starts = begins if begins is None or live is None else begins & live
    if starts is not None:
        hidden, cell = hidden.masked_fill(starts[:, :1], 0.0), cell.masked_fill(starts[:, :1], 0.0)
    with torch.autocast(x.device.type, enabled=False):
        steps, place = x.to(weight_hh.dtype), None
        if starts is not None or live is not None:
            steps, place = interleave(steps, starts, live)
            weight_ih = torch.cat([weight_ih, shutters(width, weight_ih)], 1)
        weights = [weight_ih, weight_hh, bias, torch.zeros_like(bias)]
        # With biases, 1 layer, no dropout, whether gradients will be asked for, one direction, rows first.
        out, _, cell_after = torch.lstm(steps, [hidden[None], cell[None]], weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)
    if place is not None:
        out = out[torch.arange(rows, device=x.device)[:, None], place]
    if live is None:
        return out.to(x.dtype), out[:, -1], cell_after[0]
    count = live.sum(1)
    last = out[torch.arange(rows, device=x.device), (count - 1).clamp(min=0)]
    return out.to(x.dtype), torch.where(count[:, None] > 0, last, hidden), cell_after[0]


def interleave(x: Tensor, starts: Tensor | None, live: Tensor | None) -> tuple[Tensor, Tensor]:
    """The steps to run, (B, T + most documents that begin inside a row, C + 2), and at which step each token stands, (B, T).

    A fused LSTM can neither forget nor pause. So a step without token goes before each document, whose first extra input shuts every
    gate: hidden and cell become exactly zero, and no gradient passes. The second one, on padding, shuts the input alone and holds the
    forget gate open: the cell stays as it is. This costs a step for each document, where an own loop over time costs twice the time.
    """
    rows, length, _ = x.shape
    row, place = torch.arange(rows, device=x.device)[:, None], torch.arange(length, device=x.device).expand(rows, -1)
    longest = length
    if starts is not None:
        inside = starts.clone()
        inside[:, 0] = False  # there the state itself is set
        place = place + inside.cumsum(1)
        longest += int(inside.sum(1).max())
    extra = x.new_zeros(rows, longest, 2)
    extra[:, :, 1] = 1.0
    extra[row, place, 1] = 0.0 if live is None else (~live).to(x.dtype)
    if starts is not None:
        forgets = row.expand(rows, length)[inside], place[inside] - 1
        extra[forgets] = x.new_tensor([1.0, 0.0])
    tokens = x.new_zeros(rows, longest, x.shape[2]).index_put((row, place), x)
    return torch.cat([tokens, extra], 2), place


def shutters(width: int, like: Tensor) -> Tensor:
    """Columns (4C, 2) of the input weights for the two extra inputs: what each does to the gates i, f, g, o."""
    forget, hold = (-SHUT, -SHUT, 0.0, -SHUT), (-SHUT, SHUT, 0.0, 0.0)
    return like.new_tensor([forget, hold]).T.repeat_interleave(width, 0)
