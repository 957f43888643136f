"""Attention functions against a loop over single queries in float64, for every combination of what may be seen, on every path."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from bessemer.model import attend as module
from bessemer.model.attend import See, attend, flex, fused, scores_mask, with_blocks

ROWS, TOKENS, HEADS, WIDTH = 2, 7, 4, 8
WORDS = ("causal", "window", "segments", "prefix", "grouped", "biased", "cached")
CHOICES = list(itertools.product([True, False], repeat=len(WORDS)))


def name(choice: tuple[bool, ...]) -> str:
    return "-".join(word for word, chosen in zip(WORDS, choice, strict=True) if chosen) or "plain"


def visible(see: See, row: int, query: int, key: int) -> bool:
    """The rule, key by key, as the fields of See describe it."""
    place = query if see.at is None else int(see.at[row, query])
    early = not see.causal or key <= place or (see.prefix is not None and bool(see.prefix[row, key]))
    near = not see.window or (place - key < see.window and (see.causal or key - place < see.window))
    own = see.segment is None or int(see.segment[row, query]) == int(see.key_segment[row, key])
    return early and near and own


def naive(query: Tensor, key: Tensor, value: Tensor, see: See) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v, a query and a head at a time, in the inputs' precision."""
    rows, heads, tokens, width = query.shape
    group = heads // key.shape[1]
    out = [query.new_zeros(width) + 0 * query[0, 0, 0] for _ in range(rows * heads * tokens)]
    for row, head, at in itertools.product(range(rows), range(heads), range(tokens)):
        keys = [index for index in range(key.shape[2]) if visible(see, row, at, index)]
        if keys:
            scores = key[row, head // group, keys] @ query[row, head, at] / math.sqrt(width)
            if see.bias is not None:
                scores = scores + see.bias[row % len(see.bias), head, at, keys]
            out[(row * heads + head) * tokens + at] = scores.softmax(0) @ value[row, head // group, keys]
    return torch.stack(out).view(rows, heads, tokens, width)


def case(causal: bool, window: bool, segments: bool, prefix: bool, grouped: bool, biased: bool, cached: bool) -> tuple[list[Tensor], See]:
    """Random inputs (float64) of a combination."""
    torch.manual_seed(0)
    keys = TOKENS + 5 if cached else TOKENS
    shared = 2 if grouped else HEADS
    query, key, value = (torch.randn(ROWS, heads, length, WIDTH) for heads, length in ((HEADS, TOKENS), (shared, keys), (shared, keys)))
    number = torch.tensor([[1] * 2 + [2] * 3 + [3] * 15, [1] * 4 + [2] + [0] * 15])  # the second row ends in padding
    see = See(
        causal=causal,
        window=4 if window else 0,
        segment=number[:, :TOKENS] if segments else None,
        key_segment=number[:, :keys] if segments else None,
        prefix=torch.rand(ROWS, keys) < 0.3 if prefix else None,
        at=torch.stack([torch.arange(TOKENS) + 5, torch.arange(TOKENS) + 2]) if cached else None,
        bias=torch.randn(1 if window else ROWS, HEADS, TOKENS, keys) if biased else None,
    )
    return [query, key, value], see


def leaves(tensors: list[Tensor], see: See, dtype: torch.dtype) -> tuple[list[Tensor], See, list[Tensor]]:
    """Copies that gradients reach: queries, keys, values, and `see` with its bias; and all of them in a list."""
    copies = [tensor.to(dtype).clone().requires_grad_() for tensor in tensors]
    if see.bias is None:
        return copies, see, copies
    bias = see.bias.to(dtype).clone().requires_grad_()
    return copies, see._replace(bias=bias), [*copies, bias]


@pytest.fixture(params=["whole", "chunked"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(module, "WHOLE_UP_TO", 100 if request.param == "whole" else 0)
    monkeypatch.setattr(module, "CHUNK", 4)
    return request.param


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_every_combination_equals_the_loop_and_so_do_its_gradients(choice: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, see = case(*choice)
    inputs, exact_see, exact_leaves = leaves(tensors, see, torch.float64)
    exact = naive(*inputs, exact_see)
    direction = torch.randn(exact.shape)
    wanted = torch.autograd.grad(exact, exact_leaves, direction.double())

    inputs, see, ours = leaves(tensors, see, torch.float32)
    monkeypatch.setattr(module, "CHUNK", 3)
    for up_to, half in ((100, 64), (100, 2), (0, 64)):  # whole, in halves where the text looks back, chunked
        monkeypatch.setattr(module, "WHOLE_UP_TO", up_to)
        monkeypatch.setattr(module, "HALF", half)
        out = attend(*inputs, see)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5)
        for found, gradient in zip(torch.autograd.grad(out, ours, direction), wanted, strict=True):
            torch.testing.assert_close(found.double(), gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_one_query_against_a_cache_equals_the_loop(choice: tuple[bool, ...]) -> None:
    (query, key, value), see = case(*choice)
    last = slice(TOKENS - 1, TOKENS)
    one = see._replace(
        segment=None if see.segment is None else see.segment[:, last],
        at=torch.full((ROWS, 1), TOKENS - 1) if see.at is None else see.at[:, last],
        bias=None if see.bias is None else see.bias[:, :, last],
    )
    query = query[:, :, last]
    torch.testing.assert_close(attend(query, key, value, one), naive(query, key, value, one), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_the_fused_operator_equals_the_loop(choice: tuple[bool, ...]) -> None:
    """What runs on a GPU where FlexAttention does not."""
    (query, key, value), see = case(*choice)
    torch.testing.assert_close(fused(query, key, value, see), naive(query, key, value, see), rtol=1e-5, atol=1e-5)


MASKED = [choice for choice in CHOICES if choice[4] and not choice[5] and (choice[1] or choice[2] or (choice[0] and choice[3]))]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("choice", MASKED, ids=name)
def test_flex_attention_equals_the_loop(choice: tuple[bool, ...]) -> None:
    """What runs on a GPU, here without its kernel: the same blocks and the same rule."""
    (query, key, value), see = case(*choice)
    see = with_blocks(see, ROWS, TOKENS, key.shape[2], "cpu")
    assert see.blocks is not None
    torch.testing.assert_close(flex(query, key, value, see), naive(query, key, value, see), rtol=1e-5, atol=1e-5)


def test_flex_leaves_out_blocks_of_other_documents() -> None:
    """Two documents of 256 tokens, blocks of 128: of 16 blocks 3 + 3 hold a pair that may see each other."""
    number = torch.arange(512)[None] // 256
    see = with_blocks(See(causal=True, segment=number, key_segment=number), 1, 512, 512, "cpu")
    assert see.blocks is not None
    assert int(see.blocks.kv_num_blocks.sum()) + int(see.blocks.full_kv_num_blocks.sum()) == 6


def test_a_bias_or_the_plain_past_needs_no_blocks() -> None:
    prefix = torch.ones(1, 4, dtype=torch.bool)
    assert with_blocks(See(causal=True), 1, 4, 4, "cpu").blocks is None
    assert with_blocks(See(prefix=prefix), 1, 4, 4, "cpu").blocks is None
    assert with_blocks(See(window=2, bias=torch.zeros(1, 1, 4, 4)), 1, 4, 4, "cpu").blocks is None


def test_queries_that_see_nothing_get_zeros_and_send_no_gradient(path: str) -> None:
    """A target of segment 2 whose source has none, and padding beside a source without padding."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, length, WIDTH, requires_grad=True) for length in (9, 6, 6))
    bias = torch.randn(1, 2, 9, 6, requires_grad=True)
    segment = torch.tensor([[1] * 3 + [2] * 3 + [0] * 3])
    for add in (None, bias):
        out = attend(query, key, value, See(segment=segment, key_segment=torch.ones(1, 6, dtype=torch.long), bias=add))
        assert (out[:, :, 3:] == 0).all() and (out[:, :, :3] != 0).all()
        for gradient in torch.autograd.grad(out.sum(), [query, value] if add is None else [query, value, bias]):
            assert gradient.isfinite().all()
        assert (torch.autograd.grad(attend(query, key, value, See(segment=segment, key_segment=segment[:, 3:])).sum(), query)[0][:, :, :3] == 0).all()


def test_bfloat16_stays_close(path: str) -> None:
    """Half a unit in the last place of bf16 is 2^-9 of a value; scores and weights each round once."""
    tensors, see = case(True, False, True, False, True, False, False)
    inputs, see, exact_leaves = leaves([tensor.bfloat16() for tensor in tensors], see, torch.float64)
    exact = naive(*inputs, see)
    half, see, ours = leaves(tensors, see, torch.bfloat16)
    out = attend(*half, see)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=2e-2, atol=2e-2)
    direction = torch.randn(exact.shape).bfloat16()
    wanted = torch.autograd.grad(exact, exact_leaves, direction.double())
    for found, gradient in zip(torch.autograd.grad(out, ours, direction), wanted, strict=True):
        torch.testing.assert_close(found.double(), gradient, rtol=5e-2, atol=5e-2)


def test_normed_queries_in_fp32_meet_bf16_keys_under_autocast(path: str) -> None:
    query, key, value = torch.randn(1, 2, 9, WIDTH), torch.randn(1, 2, 9, WIDTH), torch.randn(1, 2, 9, WIDTH).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(query, key, value, See(causal=True)).dtype == torch.bfloat16


def test_nothing_to_hide_needs_no_mask() -> None:
    assert scores_mask(See(), 3, 5) is None
    mask = scores_mask(See(causal=True, window=2), 3, 3)
    assert mask is not None
    assert mask[0, 0].tolist() == [[True, False, False], [True, True, False], [False, True, True]]


def test_the_operator_is_sound_and_compiles_without_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own check of the operator (fake shapes, gradients, no hidden mutation), then one graph of it and its surroundings."""
    monkeypatch.setattr(module, "WHOLE_UP_TO", 0)
    monkeypatch.setattr(module, "CHUNK", 4)
    tensors, see = case(True, True, True, False, True, True, False)
    (query, key, value), see, _ = leaves(tensors, see, torch.float32)
    # fmt: off
    torch.library.opcheck(module._chunked, (query, key, value, see.bias, see.segment, see.key_segment, see.prefix, see.at, see.causal, see.window))
    # fmt: on
    compiled = torch.compile(lambda *inputs: attend(*inputs, see).transpose(1, 2).flatten(2), fullgraph=True, dynamic=False, backend="aot_eager")
    out, plain = compiled(query, key, value), attend(query, key, value, see).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out, plain)
    for ours, theirs in zip(torch.autograd.grad(out.sum(), [query, key, value]), torch.autograd.grad(plain.sum(), [query, key, value]), strict=True):
        torch.testing.assert_close(ours, theirs)
