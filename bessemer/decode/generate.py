"""Continue token sequences with a key-value cache: one prompt streamed, or many as a batch."""

from collections.abc import Iterator, Sequence

import torch

from bessemer.decode.sample import Sampling, choose
from bessemer.model.attention import Cache
from bessemer.model.decoder import Decoder


def generate(model: Decoder, prompts: Sequence[list[int]], sampling: Sampling, stop: set[int], rows: int = 64) -> list[list[int]]:
    """The continuation of each prompt, without the token of `stop` that ended it; `rows` prompts run together.

    A greedy answer does not depend on its neighbours in the batch. ValueError where a prompt leaves no room in the context.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    draw = torch.Generator(next(model.parameters()).device).manual_seed(sampling.seed)
    # Neighbours of similar length waste the least padding.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for begin in range(0, len(order), rows):
        chunk = order[begin : begin + rows]
        for tokens in _steps(model, [prompts[i] for i in chunk], sampling, stop, draw):
            for i, token in zip(chunk, tokens, strict=True):
                if token is not None:
                    answers[i].append(token)
    return answers


def stream(model: Decoder, prompt: list[int], sampling: Sampling, stop: set[int]) -> Iterator[int]:
    """The tokens that continue one prompt, as they come."""
    draw = torch.Generator(next(model.parameters()).device).manual_seed(sampling.seed)
    for (token,) in _steps(model, [prompt], sampling, stop, draw):
        if token is not None:
            yield token


@torch.inference_mode()
def _steps(model: Decoder, prompts: Sequence[list[int]], sampling: Sampling, stop: set[int], draw: torch.Generator) -> Iterator[list[int | None]]:
    """One list per step: a token for each prompt, None where it has ended."""
    weight = next(model.parameters())
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=weight.device)
    longest, context = int(lengths.max()), model.cfg.context
    if int(lengths.min()) == 0:
        raise ValueError("a prompt is empty: there is nothing to continue")
    if longest >= context:
        raise ValueError(f"a prompt of {longest} tokens leaves no room in a context of {context}")
    ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=weight.device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, device=weight.device)

    steps = min(sampling.max_tokens, context - longest) if len(prompts) == 1 else sampling.max_tokens
    cache = Cache(model.cfg, len(prompts), min(longest + steps, context), weight.device, weight.dtype)
    at = torch.arange(longest, device=weight.device).expand_as(ids)
    # Padding behind a prompt is never seen: its positions come after the row's own, and new tokens overwrite it there.
    hidden = model(ids, at, cache=cache)[torch.arange(len(prompts)), lengths - 1]
    alive = [True] * len(prompts)
    for step in range(steps):
        tokens = choose(model.logits(hidden), sampling, draw)
        for row, token in enumerate(tokens.tolist()):
            # A row also ends when its context is full.
            alive[row] = alive[row] and token not in stop and int(lengths[row]) + step < context
        yield [token if live else None for token, live in zip(tokens.tolist(), alive, strict=True)]
        if not any(alive) or step + 1 == steps:
            return
        at = (lengths + step).clamp(max=cache.length - 1)[:, None]
        hidden = model(tokens[:, None], at, cache=cache)[:, 0]
