"""How fast texts are encoded: in turns, so that a busy machine slows all alike."""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from bessemer.core import device, log, workers
from bessemer.eval.tokenization.texts import Text
from bessemer.tokenizer import bulk
from bessemer.tokenizer.tokenizer import Tokenizer

Encode = Callable[[list[str]], Any]


def sample(texts: Sequence[Text], size: int) -> list[str]:
    """About `size` bytes of the texts, at even distances."""
    share = min(1.0, size / sum(text.bytes for text in texts))
    found, seen, taken = [], 0, 0
    for text in texts:
        if taken <= seen * share:
            taken += text.bytes
            found.append(text.text)
        seen += text.bytes
    return found


def measure(tokenizers: dict[str, Tokenizer], texts: list[str], rounds: int) -> dict[str, Any]:
    """MB of text per second of each way to encode: ours, as training does it; Hugging Face `tokenizers`; and `tiktoken` on the same
    vocabulary where that is a byte-level BPE. All cores are allowed to each; per CPU second says what one of them does."""
    ways = {(name, way): encode for name, tokenizer in tokenizers.items() for way, encode in _ways(tokenizer).items()}
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    wall: dict[tuple[str, str], list[float]] = {key: [] for key in ways}
    cpu: dict[tuple[str, str], list[float]] = {key: [] for key in ways}
    for encode in ways.values():  # what is set up once does not count
        encode(texts)
    for turn in log.track(range(rounds), "speed"):
        order = list(ways)
        for key in order[turn % len(order) :] + order[: turn % len(order)]:
            began, spent = time.perf_counter(), time.process_time()
            ways[key](texts)
            wall[key].append(size / 1e6 / (time.perf_counter() - began))
            cpu[key].append(size / 1e6 / max(time.process_time() - spent, 1e-9))
    rows = [{"tokenizer": name, "way": way, "wall": _spread(wall[name, way]), "cpu": _spread(cpu[name, way])} for name, way in ways]
    return {
        "machine": device.describe(torch.device("cpu")),
        "cores": workers.cores(),
        "bytes": size,
        "rounds": rounds,
        "versions": _versions(),
        "rows": rows,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 2), "low": round(min(values), 2), "high": round(max(values), 2)}


def _versions() -> dict[str, str]:
    found = {}
    for name in ("bessemer", "tokenizers", "tiktoken"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _ways(tokenizer: Tokenizer) -> dict[str, Encode]:
    backend = tokenizer.backend
    ways: dict[str, Encode] = {
        "bessemer": tokenizer.encode_batch,
        "tokenizers": lambda texts: backend.encode_batch_fast(texts, add_special_tokens=False),
    }
    with contextlib.suppress(bulk.Refused):  # of another kind than byte-level BPE, or not installed
        encoding = bulk.Bulk(backend).encoding
        ways["tiktoken"] = lambda texts: encoding.encode_ordinary_batch(texts, num_threads=workers.cores())
    return ways
