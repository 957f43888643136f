"""Continue token sequences with a cache: one prompt streamed, or many as a batch."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bessemer.decode.sample import Sampling, choose
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model
from bessemer.model.seen import Cache

Ids = list[int]


def generate(model: Model, prompts: Sequence[Ids], sampling: Sampling, stop: set[int], rows: int = 64, sources: Sequence[Ids] = ()) -> list[Ids]:
    """The continuation of each prompt, without the token of `stop` that ended it; `rows` prompts run together.

    An encdec reads `sources`, one for each prompt, and a prompt is then how its text begins. A greedy answer does not depend on its
    neighbours in the batch. ValueError before any work where a prompt cannot be continued.
    """
    check(model.cfg, prompts, sources)
    answers: list[Ids] = [[] for _ in prompts]
    draw = torch.Generator(next(model.parameters()).device).manual_seed(sampling.seed)
    # Neighbours of similar length waste the least padding.
    order = sorted(range(len(prompts)), key=lambda i: (len(sources[i]) if sources else 0, len(prompts[i])))
    for begin in range(0, len(order), rows):
        chunk = order[begin : begin + rows]
        for tokens in _steps(model, [prompts[i] for i in chunk], sampling, stop, draw, [sources[i] for i in chunk] if sources else []):
            for i, token in zip(chunk, tokens, strict=True):
                if token is not None:
                    answers[i].append(token)
    return answers


def stream(model: Model, prompt: Ids, sampling: Sampling, stop: set[int], source: Ids | None = None) -> Iterator[int]:
    """The tokens that continue one prompt, as they come."""
    check(model.cfg, [prompt], [] if source is None else [source])
    draw = torch.Generator(next(model.parameters()).device).manual_seed(sampling.seed)
    for (token,) in _steps(model, [prompt], sampling, stop, draw, [] if source is None else [source]):
        if token is not None:
            yield token


def check(cfg: ModelConfig, prompts: Sequence[Ids], sources: Sequence[Ids] = ()) -> None:
    """ValueError where this model cannot continue these prompts."""
    if not prompts and not sources:
        return
    if cfg.shape == "encoder" or not cfg.has_lm:
        raise ValueError(f"a model with shape = {cfg.shape} and head = {cfg.head} writes no text")
    if not all(prompts):
        raise ValueError("a prompt is empty: there is nothing to continue")
    if (longest := max(map(len, prompts))) >= cfg.context:
        raise ValueError(f"a prompt of {longest} tokens leaves no room in a context of {cfg.context}")
    if cfg.shape != "encdec":
        if sources:
            raise ValueError(f"shape = {cfg.shape} reads no source: put it into the prompt")
        return
    if len(sources) != len(prompts) or not all(sources):
        raise ValueError(f"{len(sources)} sources for {len(prompts)} prompts: an encdec needs one for each, of at least one token")
    if (longest := max(map(len, sources))) > cfg.context:
        raise ValueError(f"a source of {longest} tokens does not fit a context of {cfg.context}")


@torch.inference_mode()
def _steps(
    model: Model, prompts: Sequence[Ids], sampling: Sampling, stop: set[int], draw: torch.Generator, sources: Sequence[Ids]
) -> Iterator[list[int | None]]:
    """One list per step: a token for each prompt, None where it has ended."""
    weight = next(model.parameters())
    ids, lengths = _padded(prompts, weight.device)
    longest, context = ids.shape[1], model.cfg.context
    steps = min(sampling.max_tokens, context - longest) if len(prompts) == 1 else sampling.max_tokens
    cache = Cache(model.cfg, len(prompts), min(longest + steps, context), weight.device, weight.dtype)
    at = torch.arange(longest, device=weight.device).expand_as(ids)
    # Padding behind a prompt is never seen: its positions come after the row's own, and new tokens overwrite it there.
    live = at < lengths[:, None]
    memory, memory_segment = _encoded(model, sources, weight.device)
    hidden = model(ids, at, cache=cache, live=live, prefix=live if model.cfg.prefix else None, memory=memory, memory_segment=memory_segment)
    hidden = hidden[torch.arange(len(prompts)), lengths - 1]
    alive = [True] * len(prompts)
    for step in range(steps):
        tokens = choose(model.logits(hidden), sampling, draw)
        for row, token in enumerate(tokens.tolist()):
            # A row also ends when its context is full.
            alive[row] = alive[row] and token not in stop and int(lengths[row]) + step < context
        yield [token if going else None for token, going in zip(tokens.tolist(), alive, strict=True)]
        if not any(alive) or step + 1 == steps:
            return
        at = (lengths + step).clamp(max=cache.length - 1)[:, None]
        hidden = model(tokens[:, None], at, cache=cache)[:, 0]


def _encoded(model: Model, sources: Sequence[Ids], device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """What an encdec's encoder makes of the sources, and 1 where they stand, 0 on padding."""
    if not sources:
        return None, None
    ids, lengths = _padded(sources, device)
    segment = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
    return model.encode(ids, segment), segment


def _padded(rows: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of ids (B, T), zeros to their right, and their lengths (B,)."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long, device=device)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, device=device)
    return ids, lengths
