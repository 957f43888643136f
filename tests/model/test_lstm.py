"""The LSTM mixer against torch.nn.LSTM, against the paper's equations document by document, and against itself with a cache."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from bessemer.model.config import Architecture
from bessemer.model.lstm import Lstm, recur

WIDTH = 16
ROWS = torch.randn(3, 20, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
# Documents of one token, two that begin side by side, a row that is one document, a row that goes on from the call before.
BEGINS = torch.zeros(3, 20, dtype=torch.bool)
BEGINS[0, [0, 3, 4, 5, 19]] = True
BEGINS[1, 0] = True
BEGINS[2, 11] = True
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-10}


def build(dtype: torch.dtype = torch.float64) -> Lstm:
    mix = Lstm(Architecture(width=WIDTH), 0).to(dtype)
    mix.initialise(torch.Generator().manual_seed(1))
    nn.init.normal_(mix.bias, generator=torch.Generator().manual_seed(2))
    return mix


def run(mix: Lstm, x: Tensor, begins: Tensor | None = None, live: Tensor | None = None, slot: dict[str, Tensor] | None = None) -> Tensor:
    return mix(x, SimpleNamespace(begins=begins, live=live), slot, None)[0]


def token_by_token(mix: Lstm, x: Tensor, begins: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
    """i, f, o = sigmoid, g = tanh of W x + U h + b; c = f c + i g; h = o tanh(c). Gers et al. 2000, without peepholes."""
    found = []
    for row in range(len(x)):
        h, c = hidden[row], cell[row]
        for t in range(x.shape[1]):
            if begins[row, t]:
                h, c = torch.zeros_like(h), torch.zeros_like(c)
            i, f, g, o = (mix.weight_ih @ x[row, t] + mix.weight_hh @ h + mix.bias).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            found.append(h)
    return torch.stack(found).view_as(x)


def gradients(out: Tensor, *wanted: Tensor) -> tuple[Tensor, ...]:
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((out * weight).sum(), wanted)


@pytest.mark.parametrize("dtype", CLOSE)
def test_weights_outputs_and_gradients_are_those_of_torch(dtype):
    mix, theirs, x = build(dtype), nn.LSTM(WIDTH, WIDTH, batch_first=True, dtype=dtype), ROWS.to(dtype).requires_grad_()
    ours = (mix.weight_ih, mix.weight_hh, mix.bias)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), (*ours, torch.zeros_like(mix.bias)), strict=True)))
    a, b = run(mix, x), theirs(x)[0]
    close = {"atol": CLOSE[dtype], "rtol": CLOSE[dtype]}
    torch.testing.assert_close(a, b, **close)
    for one, other in zip(gradients(a, x, *ours), gradients(b, x, *list(theirs.parameters())[:3]), strict=True):
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("dtype", CLOSE)
def test_documents_in_a_row_are_read_one_by_one(dtype):
    mix, x = build(dtype), ROWS.to(dtype).requires_grad_()
    hidden, cell = (torch.randn(3, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_() for seed in (4, 5))
    ours = recur(x, mix.weight_ih, mix.weight_hh, mix.bias, (hidden, cell), BEGINS)[0]
    by_hand = token_by_token(mix, x, BEGINS, hidden, cell)
    close = {"atol": CLOSE[dtype], "rtol": CLOSE[dtype]}
    torch.testing.assert_close(ours, by_hand, **close)
    wanted = (x, hidden, cell, *mix.parameters())
    for one, other in zip(gradients(ours, *wanted), gradients(by_hand, *wanted), strict=True):
        torch.testing.assert_close(one, other, **close)


def test_nothing_passes_from_one_document_to_the_next():
    mix, x = build(torch.float32), ROWS.float()
    changed = x.clone()
    changed[0, :4] += 100.0
    a, b = run(mix, x, BEGINS), run(mix, changed, BEGINS)
    assert torch.equal(a[0, 4:], b[0, 4:]) and not torch.equal(a[0, :4], b[0, :4])
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(run(mix, x, BEGINS)[0, 5:].sum(), x)
    assert gradient[0, :5].count_nonzero() == 0 and gradient[0, 5:].count_nonzero() > 0


@pytest.mark.parametrize("steps", [(20,), (1,) * 20, (7, 1, 9, 3)])
@pytest.mark.parametrize("begins", [None, BEGINS])
def test_cached_steps_equal_the_full_forward(steps, begins):
    mix, slot, found, at = build(), {}, [], 0
    with torch.no_grad():
        for size in steps:
            now = slice(at, at + size)
            found.append(run(mix, ROWS[:, now], None if begins is None else begins[:, now], slot=slot))
            at += size
        torch.testing.assert_close(torch.cat(found, 1), run(mix, ROWS, begins), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("begins", [None, BEGINS])
def test_padding_changes_no_state(begins):
    """Rows of 20, 5 and 0 tokens: each goes on as if it had been read alone."""
    mix, slot = build(), {}
    length = torch.tensor([20, 5, 0])
    live = torch.arange(20) < length[:, None]
    with torch.no_grad():
        run(mix, ROWS, slot=slot)
        begun = {name: value.clone() for name, value in slot.items()}
        out = run(mix, ROWS, begins, live, slot)
        for row, size in enumerate(length.tolist()):
            alone = {name: value[row : row + 1] for name, value in begun.items()}
            if size:
                now = (slice(row, row + 1), slice(0, size))
                torch.testing.assert_close(out[now], run(mix, ROWS[now], None if begins is None else begins[now], slot=alone))
            for name, value in alone.items():
                torch.testing.assert_close(slot[name][row : row + 1], value, atol=1e-10, rtol=1e-10)


def test_autocast_leaves_the_recurrence_in_the_precision_of_the_weights():
    mix, x = build(torch.float32), ROWS.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(mix, x, BEGINS), run(mix.float(), x, BEGINS))
        assert run(mix, x.bfloat16()).dtype == torch.bfloat16
    half = build(torch.float32).bfloat16()
    torch.testing.assert_close(run(half, x.bfloat16(), BEGINS).float(), run(mix, x, BEGINS), atol=0.05, rtol=0.0)


def test_the_start_is_fixed_by_the_seed_and_remembers():
    mix, again, other = (Lstm(Architecture(width=WIDTH), 0) for _ in range(3))
    for one, seed in ((mix, 1), (again, 1), (other, 2)):
        one.initialise(torch.Generator().manual_seed(seed))
    assert all(torch.equal(a, b) for a, b in zip(mix.parameters(), again.parameters(), strict=True))
    assert not torch.equal(mix.weight_ih, other.weight_ih)
    assert mix.bias.tolist() == [0.0] * WIDTH + [1.0] * WIDTH + [0.0] * 2 * WIDTH
    for gate in mix.weight_hh.detach().chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(WIDTH), atol=1e-5, rtol=0.0)


def test_it_learns_to_remember():
    """The first of 12 tokens, one of 8 symbols, must be said at the last; between them stands noise. Two documents a row."""
    torch.manual_seed(0)
    mix, embed, head = Lstm(Architecture(width=32), 0), nn.Embedding(16, 32), nn.Linear(32, 8)
    optimizer = torch.optim.AdamW([*mix.parameters(), *embed.parameters(), *head.parameters()], lr=1e-2)
    begins = (torch.arange(24) % 12 == 0).expand(16, -1)
    for _ in range(150):
        ids = torch.where(begins, torch.randint(0, 8, (16, 24)), torch.randint(8, 16, (16, 24)))
        said = head(run(mix, embed(ids), begins)[:, 11::12])
        cost = nn.functional.cross_entropy(said.flatten(0, 1), ids[:, ::12].flatten())
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    assert cost < 0.05, f"{cost:.3f} nats; a guess costs 2.08"


@pytest.mark.slow
def test_it_trains_inside_a_compiled_block():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.mix = nn.RMSNorm(WIDTH), build(torch.float32)

        def forward(self, x: Tensor, begins: Tensor) -> Tensor:
            return x + run(self.mix, self.norm(x), begins)

    block, x = Block(), ROWS.float().requires_grad_()
    compiled = torch.compile(block.forward, dynamic=False)
    a, b = compiled(x, BEGINS), block(x, BEGINS)
    torch.testing.assert_close(a, b)
    for one, other in zip(gradients(a, x, *block.parameters()), gradients(b, x, *block.parameters()), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
