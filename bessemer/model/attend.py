"""softmax(q k^T / sqrt(D) + bias) v on plain tensors, by whichever way is fast for the shape and the device.

B rows, T tokens, S keys, H query heads, K key-value heads, D head width.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

# On CPU all scores at once are faster than chunks up to the square of this, since torch.compile fuses what happens to them (docs/models.md).
WHOLE_UP_TO = 256
# Fewer queries than this are not worth a product of their own.
HALF = 64
# Queries that share a matrix product in longer rows: their scores should stay in the processor's cache, and the product be worth its call.
CHUNK = 128


class See(NamedTuple):
    """Which keys a query may see: those that every field given here allows."""

    causal: bool = False
    window: int = 0  # query - key < window; where not causal, key - query < window too. 0: no bound
    segment: Tensor | None = None  # (B, T) and
    key_segment: Tensor | None = None  # (B, S): only equal numbers see each other, padding its like. Given both or neither
    prefix: Tensor | None = None  # (B, S) True where a key may be seen even by earlier queries
    at: Tensor | None = None  # (B, T) which of the keys a query stands at, where a cache holds them; else query i stands at key i
    bias: Tensor | None = None  # (B or 1, H, T, S) added to the scores
    blocks: "BlockMask | None" = None  # all of this but bias for FlexAttention, from `with_blocks`


def attend(query: Tensor, key: Tensor, value: Tensor, see: See) -> Tensor:
    """(B, H, T, D) from queries (B, H, T, D) and keys and values (B, K, S, D), H a multiple of K. A query that sees nothing gets zeros."""
    query, key = query.to(value.dtype), key.to(value.dtype)  # normed queries leave autocast in fp32
    if query.device.type == "cpu":
        if query.shape[2] * key.shape[2] <= WHOLE_UP_TO**2:
            return halves(query, key, value, see) if _worth_halving(see, query, key) else whole(query, key, value, see)
        if query.dtype == torch.float32 and _just_past(see, query, key):  # the one case where PyTorch's operator is faster
            return fused(query, key, value, see)
        return _chunked(query, key, value, see.bias, see.segment, see.key_segment, see.prefix, see.at, see.causal, see.window)
    if see.blocks is not None and see.bias is None and torch.compiler.is_compiling():  # uncompiled, FlexAttention is slow and keeps all scores
        return flex(query, key, value, see)
    return fused(query, key, value, see)


def scores_mask(see: See, tokens: int, keys: int, device: torch.device | str = "cpu") -> Tensor | None:
    """(B or 1, 1, T, S): True where a key may be seen; None where all may."""
    place = torch.arange(tokens, device=device)[None, :, None] if see.at is None else see.at[:, :, None]
    mask = _allowed(
        see,
        place,
        torch.arange(keys, device=device)[None, None],
        None if see.segment is None else see.segment[:, :, None],
        None if see.key_segment is None else see.key_segment[:, None],
        None if see.prefix is None else see.prefix[:, None],
    )
    return None if mask is None else mask[:, None]


def _allowed(see: See, place: Tensor, key: Tensor, segment: Tensor | None, key_segment: Tensor | None, prefix: Tensor | None) -> Tensor | None:
    """The rule itself, for positions of queries and keys and what `see` says of them, all of shapes that broadcast."""
    allowed = None
    if see.causal:
        allowed = key <= place if prefix is None else (key <= place) | prefix
    if see.window:
        near = place - key < see.window if see.causal else (place - key).abs() < see.window
        allowed = near if allowed is None else allowed & near
    if segment is not None and key_segment is not None:
        same = segment == key_segment
        allowed = same if allowed is None else allowed & same
    return allowed


def halves(query: Tensor, key: Tensor, value: Tensor, see: See) -> Tensor:
    """`whole` for a text that looks back: its first half needs no keys of the second, which saves a quarter of the scores."""
    tokens = query.shape[2]
    middle = tokens // 2
    at = torch.arange(middle, tokens, device=query.device)[None]
    early, late = See(see.causal, see.window), See(see.causal, see.window, at=at)
    if see.segment is not None and see.key_segment is not None:
        early = early._replace(segment=see.segment[:, :middle], key_segment=see.key_segment[:, :middle])
        late = late._replace(segment=see.segment[:, middle:], key_segment=see.key_segment)
    if see.bias is not None:
        early, late = early._replace(bias=see.bias[..., :middle, :middle]), late._replace(bias=see.bias[..., middle:, :])
    parts = [
        whole(query[:, :, :middle], key[:, :, :middle], value[:, :, :middle], early, False),
        whole(query[:, :, middle:], key, value, late, False),
    ]
    return torch.cat(parts, 2)


def _worth_halving(see: See, query: Tensor, key: Tensor) -> bool:
    """Where queries stand at their own keys, all see at least themselves, and the products stay large."""
    own = see.key_segment is see.segment and query.shape[2] == key.shape[2]
    return see.causal and own and see.prefix is None and see.at is None and query.shape[2] >= 2 * HALF


def whole(query: Tensor, key: Tensor, value: Tensor, see: See, blind: bool | None = None) -> Tensor:
    """`attend` by two products over all scores. Query heads that share a key head are rows of one product, so no key is copied.

    blind: whether there may be queries that see nothing; None: unless every token sees itself.
    """
    blind = see.key_segment is not see.segment if blind is None else blind
    rows, heads, tokens, width = query.shape
    shared, keys = key.shape[1], key.shape[2]
    query = (query * width**-0.5).reshape(rows, shared, -1, width)  # (B, K, H / K * T, D)
    scores = _full((query @ key.transpose(-2, -1)).view(rows, heads, tokens, keys))
    if see.bias is not None:
        scores = scores + see.bias
    mask = scores_mask(see, tokens, keys, query.device)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1).to(value.dtype)
    if mask is not None and blind:
        weights = weights.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    return (weights.view(rows, shared, -1, keys) @ value).view(rows, heads, tokens, width)


def fused(query: Tensor, key: Tensor, value: Tensor, see: See) -> Tensor:
    """`attend` by PyTorch's own operator: FlashAttention on a GPU where just the past, or all, is seen; else it reads a mask."""
    tokens, keys = query.shape[2], key.shape[2]
    plain = _just_past(see, query, key)
    mask = None if plain else scores_mask(see, tokens, keys, query.device)
    if see.bias is not None:
        bias = see.bias.to(query.dtype)
        mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
    if mask is not None and query.device.type == "cuda" and query.shape[1] != key.shape[1]:
        # The kernel that reads a mask takes no shared heads; without it all scores would be kept.
        key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], 1) for part in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=plain, enable_gqa=query.shape[1] != key.shape[1])


def _just_past(see: See, query: Tensor, key: Tensor) -> bool:
    bounded = see.window > 0 or query.shape[2] != key.shape[2]
    return see.causal and not bounded and see.segment is None and see.prefix is None and see.at is None and see.bias is None


def flex(query: Tensor, key: Tensor, value: Tensor, see: See) -> Tensor:
    """`attend` by FlexAttention (Dong et al. 2024), which skips the blocks of scores that `see.blocks` leaves out. Fast where compiled."""
    from torch.nn.attention.flex_attention import flex_attention  # not needed on CPU

    out = flex_attention(query, key, value, block_mask=see.blocks, enable_gqa=query.shape[1] != key.shape[1])
    assert isinstance(out, Tensor)
    return out


def with_blocks(see: See, rows: int, tokens: int, keys: int, device: torch.device | str) -> See:
    """`see` with what FlexAttention needs, made once for all blocks of a forward pass. Unchanged where all, or just
    the past, is seen."""
    masked = see.window > 0 or see.segment is not None or (see.causal and see.prefix is not None)
    if see.bias is not None or not masked:
        return see  # other kernels are faster, and a bias is a tensor of all scores already
    from torch.nn.attention.flex_attention import create_block_mask  # not needed on CPU

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        allowed = _allowed(
            see,
            query if see.at is None else see.at[row, query],
            key,
            None if see.segment is None else see.segment[row, query],
            None if see.key_segment is None else see.key_segment[row, key],
            None if see.prefix is None else see.prefix[row, key],
        )
        assert allowed is not None
        return allowed

    return see._replace(blocks=create_block_mask(seen, rows, None, tokens, keys, device=str(device)))


# One operator to torch.compile: which keys a chunk may leave out depends on the data, and the loop unrolled would compile for minutes.
@torch.library.custom_op("bessemer::attend", mutates_args=())
def _chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    segment: Tensor | None,
    key_segment: Tensor | None,
    prefix: Tensor | None,
    at: Tensor | None,
    causal: bool,
    window: int,
) -> Tensor:
    """`attend` by chunks of queries, each with only the keys between the first and the last that it may see. No scores are kept."""
    see = See(causal, window, segment, key_segment, prefix, at)
    out = _zeros(query)
    for row, first, last, low, high, mask in _chunks(see, query, key):
        part = _rows_of(query[row, :, first:last], key.shape[1])
        weights = _weights(part, key[row, :, low:high], _part(bias, row, first, last, low, high), mask)
        out[row, :, first:last] = (weights @ value[row, :, low:high]).view(query.shape[1], last - first, -1)
    return out


@_chunked.register_fake
def _(query: Tensor, *_: object) -> Tensor:
    return _zeros(query)


@torch.library.custom_op("bessemer::attend_backward", mutates_args=())
def _chunked_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    segment: Tensor | None,
    key_segment: Tensor | None,
    prefix: Tensor | None,
    at: Tensor | None,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and bias (empty without one). The weights are computed again, as in FlashAttention (Dao et al. 2022)."""
    see = See(causal, window, segment, key_segment, prefix, at)
    to_query = _zeros(query)
    # Many chunks add to one key: in fp32, or bf16 would round each time.
    to_key, to_value = torch.zeros(key.shape), torch.zeros(value.shape)
    to_bias = query.new_empty(0) if bias is None else torch.zeros_like(bias)
    for row, first, last, low, high, mask in _chunks(see, query, key):
        part, part_gradient = (
            _rows_of(query[row, :, first:last], key.shape[1]),
            gradient[row, :, first:last].reshape(key.shape[1], -1, query.shape[3]),
        )
        keys, values = key[row, :, low:high], value[row, :, low:high]
        weights = _weights(part, keys, _part(bias, row, first, last, low, high), mask)
        to_value[row, :, low:high] += weights.mT @ part_gradient
        to_scores = torch._softmax_backward_data(part_gradient @ values.mT, weights, -1, weights.dtype)
        to_key[row, :, low:high] += to_scores.mT @ part
        to_query[row, :, first:last] = (to_scores @ keys).view(query.shape[1], last - first, -1) * query.shape[3] ** -0.5
        if bias is not None:
            to_bias[row % len(bias), :, first:last, low:high] += to_scores.view(query.shape[1], last - first, -1)
    return to_query, to_key.to(key.dtype), to_value.to(value.dtype), to_bias


@_chunked_backward.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    to_bias = query.new_empty(0) if bias is None else torch.empty_like(bias)
    return _zeros(query), key.new_empty(key.shape), value.new_empty(value.shape), to_bias


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.causal, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _derive(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    bias = ctx.saved_tensors[3]
    *to_inputs, to_bias = _chunked_backward(gradient, *ctx.saved_tensors, ctx.causal, ctx.window)
    return *to_inputs, None if bias is None else to_bias, *[None] * 6


_chunked.register_autograd(_derive, setup_context=_remember)


def _chunks(see: See, query: Tensor, key: Tensor) -> Iterator[tuple[int, int, int, int, int, Tensor | None]]:
    """row, queries first:last, keys low:high that they may see some of, and which of those, (T', S'): None where all."""
    for row in range(query.shape[0]):
        for first in range(0, query.shape[2], CHUNK):
            last = min(first + CHUNK, query.shape[2])
            own = slice(first, last)
            low, high = _reach(see, row, own, key.shape[2])
            if low >= high:  # these see nothing
                continue
            keys = slice(low, high)
            mask = _allowed(
                see,
                (torch.arange(first, last) if see.at is None else see.at[row, own])[:, None],
                torch.arange(low, high)[None],
                None if see.segment is None else see.segment[row, own, None],
                None if see.key_segment is None else see.key_segment[row, None, keys],
                None if see.prefix is None else see.prefix[row, None, keys],
            )
            yield row, first, last, low, high, mask


def _reach(see: See, row: int, own: slice, keys: int) -> tuple[int, int]:
    """The first key that some of these queries may see, and one past the last."""
    first, last = (own.start, own.stop - 1) if see.at is None else (int(end) for end in see.at[row, own].aminmax())
    low, high = 0, keys
    if see.window:
        low = max(low, first - see.window + 1)
        if not see.causal:
            high = min(high, last + see.window)
    if see.causal and see.prefix is None:
        high = min(high, last + 1)
    if see.segment is not None and see.key_segment is not None and low < high:
        least, most = see.segment[row, own].aminmax()
        number = see.key_segment[row, low:high]
        found = ((number >= least) & (number <= most)).nonzero()
        low, high = (low + int(found[0]), low + int(found[-1]) + 1) if len(found) else (0, 0)
    return low, high


def _weights(query: Tensor, key: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """softmax(q k^T + bias) (K, H / K * T', S') of queries (K, H / K * T', D) and keys (K, S', D)."""
    product = query @ key.mT
    scores = product if mask is None else product.view(-1, mask.shape[0], mask.shape[1])  # (H, T', S')
    if bias is not None:
        scores = _full(product).view(bias.shape) + bias
    if mask is not None:  # added, since masked_fill does not vectorise in bf16
        scores += torch.zeros(mask.shape, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1).to(query.dtype)  # of bf16, too, it is summed in fp32
    if mask is not None and not (some := mask.any(-1)).all():
        weights.masked_fill_(~some[:, None], 0.0)
    return weights.view(product.shape)


def _rows_of(query: Tensor, shared: int) -> Tensor:
    """Queries (H, T', D) of one row, scaled, those of heads that share keys one after another: (K, H / K * T', D)."""
    return (query * query.shape[-1] ** -0.5).reshape(shared, -1, query.shape[-1])


def _part(bias: Tensor | None, row: int, first: int, last: int, low: int, high: int) -> Tensor | None:
    """(H, T', S') of a bias that all rows may share."""
    return None if bias is None else bias[row % len(bias), :, first:last, low:high]


def _full(scores: Tensor) -> Tensor:
    """In fp32 at least, in which a softmax is taken."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _zeros(query: Tensor) -> Tensor:
    """Like the query, laid out as (B, T, H, D): what follows puts the heads side by side, which then needs no copy."""
    rows, heads, tokens, width = query.shape
    return query.new_zeros(rows, tokens, heads, width).transpose(1, 2)
