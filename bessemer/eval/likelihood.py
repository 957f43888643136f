"""How likely a model finds given text: log-probabilities of continuations and of whole documents.

Rows are batched by length, and logits exist for a slice of the wanted positions at a time, never for (B, T, V).
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from bessemer.core import log
from bessemer.model.model import Model

BATCH_TOKENS = 8192  # positions in one forward pass, padding included
LOGITS = 1 << 24  # logits in memory at once: 64 MB as float32


def continuations(model: Model, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], label: str = "likelihood") -> list[float]:
    """Natural log-probability of each continuation given its prompt, summed over its tokens.

    A prompt too long for the model's context loses its beginning. ValueError where a prompt or continuation is empty, or a
    continuation alone does not fit.
    """
    context = model.cfg.context
    rows, starts = [], []
    for number, (prompt, continuation) in enumerate(pairs):
        if not prompt or not continuation:
            raise ValueError(f"pair {number}: prompt and continuation need at least one token each")
        if len(continuation) > context:
            raise ValueError(f"pair {number}: a continuation of {len(continuation)} tokens does not fit the model's context of {context}")
        row = [*prompt, *continuation][-(context + 1) :]
        rows.append(row)
        starts.append(len(row) - len(continuation))
    return score(model, rows, starts, label)


def documents(model: Model, texts: Sequence[Sequence[int]], first: int, stride: int | None = None, label: str = "documents") -> list[float]:
    """Natural log-probability of each whole document; `first` is the token that stands before its first one.

    A document longer than the model's context is read in windows that move on by `stride` tokens (half the context if not
    given). Every token is scored exactly once, and after the first window each sees at least context - stride tokens.
    """
    context = model.cfg.context
    stride = stride or max(1, context // 2)
    if not 0 < stride <= context:
        raise ValueError(f"stride {stride} must lie between 1 and the model's context of {context}")
    rows, starts, owner = [], [], []
    for number, text in enumerate(texts):
        for row, start in windows([first, *text], context, stride):
            rows.append(row)
            starts.append(start)
            owner.append(number)
    totals = [0.0] * len(texts)
    for number, value in zip(owner, score(model, rows, starts, label), strict=True):
        totals[number] += value
    return totals


def windows(stream: Sequence[int], context: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """Rows of at most `context` + 1 tokens (inputs and last target), and from which token of the row on is new."""
    done = 1  # tokens of the stream already scored, or given
    while done < len(stream):
        end = min(done + (context if done == 1 else stride), len(stream))
        begin = max(0, end - context - 1)
        yield list(stream[begin:end]), done - begin
        done = end


@torch.inference_mode()
def score(model: Model, rows: Sequence[Sequence[int]], starts: Sequence[int], label: str) -> list[float]:
    """For each row of ids: the summed natural log-probability of row[start:], each token given all before it in its row."""
    device = next(model.parameters()).device
    totals = torch.zeros(len(rows), dtype=torch.float64)
    with log.progress(label, len(rows)) as bar:
        for batch in _batches([len(row) for row in rows]):
            width = len(rows[batch[0]]) - 1
            ids = torch.zeros(len(batch), width + 1, dtype=torch.long)
            wanted = torch.zeros(len(batch), width, dtype=torch.bool)
            for i, number in enumerate(batch):
                row = rows[number]
                ids[i, : len(row)] = torch.as_tensor(row)  # zeros to the right are never attended by what stands left of them
                wanted[i, starts[number] - 1 : len(row) - 1] = True
            hidden = model(ids[:, :-1].to(device))  # (B, T, C)
            found = _log_probabilities(model, hidden[wanted.to(device)], ids[:, 1:][wanted].to(device))
            place = torch.as_tensor(batch)[wanted.nonzero()[:, 0]]
            totals.index_add_(0, place, found.double().cpu())
            bar.advance(len(batch))
    return totals.tolist()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers, longest first, so that padding is small and a lack of memory shows at once."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _log_probabilities(model: Model, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(N, C), (N,) -> (N,) log-probabilities in float32, a slice of the positions at a time."""
    found = []
    rows = max(1, LOGITS // model.cfg.vocab)
    for part, target in zip(hidden.split(rows), targets.split(rows), strict=True):
        found.append(-F.cross_entropy(model.logits(part[None])[0].float(), target, reduction="none"))
    return torch.cat(found) if found else torch.zeros(0)
