"""Open tokenizers of any make: tokenizer.json, SentencePiece's .model, tiktoken's rank files, GPT-2's and BERT's vocabulary files."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers as pre

from bessemer.tokenizer import bulk, files, special, split
from bessemer.tokenizer.formats import sentencepiece_model

Opened = tuple[Backend, dict[str, Any], str | None]  # the tokenizer, its settings, its chat template

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_TAIL}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_TAIL}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Rank file -> its pattern and the id of <|endoftext|> (tiktoken_ext/openai_public.py); a file holds neither.
RANK_FILES = {
    "gpt2": (split.GPT2, 50256), "r50k_base": (split.GPT2, 50256), "p50k_base": (split.GPT2, 50256),
    "cl100k_base": (split.LLAMA3, 100257), "o200k_base": (O200K, 199999), "qwen": (split.QWEN2, 151643),
}  # fmt: skip


def read(path: Path) -> Opened:
    """Open a folder or a file. FileNotFoundError where there is no tokenizer, ValueError where it is damaged."""
    folder = path if path.is_dir() else path.parent
    settings = files.settings_of(folder)
    return _backend(path, settings), settings, files.template_of(folder, settings)


def _backend(path: Path, settings: dict[str, Any]) -> Backend:
    """Open what is there; `settings` gains the roles that the files themselves state."""
    if path.is_dir():
        if (path / "vocab.json").is_file() and (path / "merges.txt").is_file() and not (path / "tokenizer.json").is_file():
            return _gpt2(path / "vocab.json", path / "merges.txt", settings)
        known = [path / "tokenizer.json", *sorted(path.glob("*.model")), *sorted(path.glob("*.tiktoken")), path / "vocab.txt"]
        found = next((file for file in known if file.is_file()), None)
        if found is None:
            raise FileNotFoundError(f"{path} holds no tokenizer.json, nor *.model, *.tiktoken, vocab.json with merges.txt, or vocab.txt")
        return _backend(found, settings)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such tokenizer")
    if path.suffix == ".json":
        return _json(path)
    if path.name == "vocab.txt":
        return _bert(path, settings)
    data = path.read_bytes()
    try:
        # Llama 3's tokenizer.model is a rank file too: lines of base64 and a number, where SentencePiece's is binary.
        ranks = path.suffix == ".tiktoken" or all(32 <= byte < 127 or byte in b"\r\n" for byte in data[:512])
        return _ranks(data, path.stem, settings) if ranks else sentencepiece_model.read(data, settings)
    except (ValueError, IndexError, KeyError, binascii.Error) as error:
        raise ValueError(f"{path} cannot be read as a tokenizer: {error}") from None


def _json(path: Path) -> Backend:
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # `tokenizers` raises nothing more special
        raise ValueError(f"{path} cannot be read as a tokenizer: {error}") from None


def _ranks(data: bytes, name: str, settings: dict[str, Any]) -> Backend:
    """tiktoken: a token in base64 and its rank, which is its id, on each line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            token, _, rank = line.partition(b" ")
            if not rank.strip().isdigit():
                raise ValueError(f"line {number} is no token in base64 with its rank: {line[:40]!r}")
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    if len({token for token in ranks if len(token) == 1}) < 256:
        raise ValueError("not all 256 bytes have a rank")
    pattern, end = RANK_FILES.get(name, (split.LLAMA3, max(ranks.values()) + 1))
    backend = Backend(bulk.ranks_to_model(ranks))
    backend.pre_tokenizer = pre.Sequence(  # type: ignore[assignment]
        [pre.Split(Regex(pattern), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    _mark(backend, [*(f"<|unused_{i}|>" for i in range(len(ranks), end)), "<|endoftext|>"])
    settings.setdefault("eos_token", "<|endoftext|>")
    return backend


def _gpt2(vocab: Path, merges: Path, settings: Mapping[str, Any]) -> Backend:
    try:
        backend = Backend(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:
        raise ValueError(f"{vocab.parent}: vocab.json and merges.txt cannot be read: {error}") from None
    backend.pre_tokenizer = pre.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    _mark(backend, _special_of(backend, settings))
    return backend


def _bert(path: Path, settings: dict[str, Any]) -> Backend:
    entries = path.read_text(encoding="utf-8").splitlines()
    backend = Backend(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    lower = settings.get("do_lower_case", True)
    backend.normalizer = normalizers.BertNormalizer(  # type: ignore[assignment]
        lowercase=lower, strip_accents=settings.get("strip_accents"), handle_chinese_chars=settings.get("tokenize_chinese_chars", True)
    )
    backend.pre_tokenizer = pre.BertPreTokenizer()  # type: ignore[assignment]
    backend.decoder = decoders.WordPiece(prefix="##")  # type: ignore[assignment]
    _mark(backend, _special_of(backend, settings))
    known = backend.get_vocab()
    roles = {role: settings.get(role) or token for role, token in special.MASKS.items() if token in known}
    settings |= roles
    files.frame(backend, settings)
    return backend


def _special_of(backend: Backend, settings: Mapping[str, Any]) -> list[str]:
    """Entries of a bare vocabulary that are special: those with a role in the settings, and those of usual names."""
    stated = [special.text_of(value) for role, value in settings.items() if role.endswith("_token")]
    usual = [token for names in special.USUAL.values() for token in names]
    known = backend.get_vocab()
    return sorted({token for token in [*stated, *usual] if token in known}, key=lambda token: known[token])


def _mark(backend: Backend, tokens: Sequence[str]) -> None:
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
