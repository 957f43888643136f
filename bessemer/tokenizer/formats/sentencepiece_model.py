"""Open SentencePiece's .model as a `tokenizers` tokenizer with equal ids: unigram and BPE, with its normaliser.

The file is a protobuf message of few fields (sentencepiece_model.proto), read here directly: its generated Python code clashes with other
packages' copies of itself in one process.
"""

import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers as pre

from bessemer.tokenizer.pieces import SPACE

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)  # kinds of pieces
UNIGRAM, BPE = 1, 2  # kinds of models


class Piece(NamedTuple):
    text: str
    score: float
    kind: int


class Model(NamedTuple):
    pieces: list[Piece]
    kind: int
    byte_fallback: bool
    charsmap: bytes  # the normaliser's rules, compiled
    dummy_prefix: bool  # a space goes before the text
    remove_extra_whitespaces: bool
    roles: dict[str, str]  # bos_token and its like


def read(data: bytes, settings: dict[str, Any]) -> Backend:
    """A tokenizer that gives the ids SentencePiece gives. `settings` gains the roles that the model states.

    ValueError where the data is no such model, or of a kind that `tokenizers` cannot run.
    """
    model = parse(data)
    for role, token in model.roles.items():
        settings.setdefault(role, token)
    backend = Backend(_unigram(model) if model.kind == UNIGRAM else _bpe(model))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if model.dummy_prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])  # type: ignore[assignment]
    cuts = _cuts(model)
    if cuts:
        backend.pre_tokenizer = pre.Sequence(cuts)  # type: ignore[assignment]
    strip = [decoders.Strip(" ", 1, 0)] if model.dummy_prefix else []
    backend.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    hidden = [piece.text for piece in model.pieces if piece.kind in (CONTROL, UNKNOWN)]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in hidden])
    return backend


def _unigram(model: Model) -> models.Unigram:
    unknown = next((i for i, piece in enumerate(model.pieces) if piece.kind == UNKNOWN), None)
    best = max((piece.score for piece in model.pieces if piece.kind == NORMAL), default=0.0)
    # SentencePiece scores a user's piece by its length, so that nothing beats it.
    scored = [(p.text, len(p.text.encode()) * best - 0.1 if p.kind == USER else p.score) for p in model.pieces]
    return models.Unigram(scored, unknown, model.byte_fallback)


def _bpe(model: Model) -> models.BPE:
    """Scores rank pieces; a merge is each split of a piece into two others, the best piece first."""
    ids = {piece.text: i for i, piece in enumerate(model.pieces)}
    joinable = {piece.text for piece in model.pieces if piece.kind in (NORMAL, USER)}
    merges: list[tuple[float, int, int, str, str]] = []
    for piece in model.pieces:
        if piece.kind == NORMAL:
            cut = ((piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text)))
            merges += [(-piece.score, ids[a], ids[b], a, b) for a, b in cut if a in joinable and b in joinable]
    merges.sort()
    unknown = next((piece.text for piece in model.pieces if piece.kind == UNKNOWN), None)
    user = any(piece.kind == USER for piece in model.pieces)
    return models.BPE(ids, [(a, b) for *_, a, b in merges], unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback, ignore_merges=user)


def _cuts(model: Model) -> list[pre.PreTokenizer]:
    """Around a user's pieces, and before spaces where no piece crosses one, which changes nothing but the speed."""
    user = sorted((piece.text for piece in model.pieces if piece.kind == USER), key=len, reverse=True)
    crossing = any(re.search(f"[^{SPACE}]{SPACE}", piece.text) for piece in model.pieces if piece.kind in (NORMAL, USER))
    found: list[pre.PreTokenizer] = [pre.Split(Regex("|".join(map(re.escape, user))), "isolated")] if user and model.kind == BPE else []
    return found if crossing else [*found, pre.Split(Regex(f"{SPACE}*[^{SPACE}]+"), "isolated")]


def parse(data: bytes) -> Model:
    """The fields of a model file that matter here."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for field, value in _fields(data):
        if field == 1:
            found: dict[int, Any] = {1: b"", 2: b"\0\0\0\0", 3: NORMAL} | dict(_fields(value))
            pieces.append(Piece(found[1].decode(), struct.unpack("<f", found[2])[0], found[3]))
        elif field in (2, 3):
            (trainer if field == 2 else normalizer).update(_fields(value))
    kind = trainer.get(3, UNIGRAM)
    if not pieces or kind not in (UNIGRAM, BPE):
        raise ValueError("a SentencePiece model of kind unigram or BPE is needed" if pieces else "it holds no pieces")
    if trainer.get(24) or not normalizer.get(5, True):
        raise ValueError("models that put spaces after words, or keep them unescaped, are not supported")
    # Ids of unk, bos, eos and pad, where the proto states no others; -1: the model has none.
    default = {"unk_token": (40, 0), "bos_token": (41, 1), "eos_token": (42, 2), "pad_token": (43, -1)}
    numbers = {role: trainer.get(field, usual) for role, (field, usual) in default.items()}
    roles = {role: pieces[i].text for role, i in numbers.items() if 0 <= i < len(pieces) and pieces[i].kind in (CONTROL, UNKNOWN)}
    return Model(pieces, kind, bool(trainer.get(35)), normalizer.get(2, b""), bool(normalizer.get(3, True)), bool(normalizer.get(4, True)), roles)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protobuf message: integers, and bytes for everything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value - (1 << 64) if value >> 63 else value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("it is no SentencePiece model")
        if at + size > len(data):
            raise ValueError("it is cut off, or no SentencePiece model")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("it is cut off, or no SentencePiece model")
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
