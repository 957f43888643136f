"""The tokenizer inside a GGUF file: its keys as a tokenizer.json folder, and such a folder as keys.

llama.cpp (src/llama-vocab.cpp) calls a byte-level BPE `gpt2` and names its pre-tokenization; SentencePiece's BPE it calls `llama`, with scores.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as Backend

from bessemer.tokenizer import files, foreign, special, split

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # token types

# Names that llama.cpp treats alike, and those of them under which it looks up a whole word before it applies merges.
ALIASES = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "exaone4"), "gpt-2"),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "pixtral", "falcon3", "smaug-bpe", "dbrx"), "llama-3"),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2"), "qwen2"),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), "smollm"),
}
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "pixtral", "falcon3")
MERGES_ONLY = "smaug-bpe"  # cuts as Llama 3, applies merges to every word
# GGUF has no key for a normalizer and llama.cpp applies none, but Qwen's tokenizers compose characters (NFC). Our own files say what they do.
NORMALIZER = "tokenizer.bessemer.normalizer"
ROLES = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id", "pad_token": "padding_token_id"}
SPACE = "▁"


def save(given: Mapping[str, Any], folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja from a file's keys. ValueError where they fit no tokenizer known here."""
    kind = given.get("tokenizer.ggml.model")
    if kind not in BUILD:
        raise ValueError(f"tokenizer.ggml.model = {kind!r} is not supported: {' (byte-level BPE) and '.join(BUILD)} (SentencePiece)")
    tokens, types = given.get("tokenizer.ggml.tokens"), given.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or (types is not None and len(types) != len(tokens)):
        raise ValueError("tokenizer.ggml.tokens must be a list, and tokenizer.ggml.token_type one as long")
    types = types or [NORMAL] * len(tokens)
    kept = len(tokens)
    while kept and types[kept - 1] == UNUSED and tokens[kept - 1] == _padding(kept - 1):  # rows that only make the matrix a rounder size
        kept -= 1
    tokens, types = tokens[:kept], types[:kept]
    if len(set(tokens)) != len(tokens):
        raise ValueError("tokenizer.ggml.tokens holds a token twice")
    backend = BUILD[kind](given, tokens, types)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, t in zip(tokens, types, strict=True) if t == CONTROL])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token, t in zip(tokens, types, strict=True) if t == USER_DEFINED])
    roles = {role: given.get(f"tokenizer.ggml.{key}") for role, key in ROLES.items()}
    for role, i in roles.items():
        if i is not None and (not isinstance(i, int) or not 0 <= i < len(tokens)):
            raise ValueError(f"tokenizer.ggml.{ROLES[role]} = {i} is none of the {len(tokens)} tokens")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **{role: None if i is None else tokens[i] for role, i in roles.items()}}
    _frame(backend, given, settings)
    files.save(backend, folder, {**settings, "clean_up_tokenization_spaces": False}, given.get("tokenizer.chat_template"))


def _byte_level(given: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> Backend:
    named = given.get("tokenizer.ggml.pre", "")
    if named not in ALIASES:
        raise ValueError(f"tokenizer.ggml.pre = {named!r} is not supported ({', '.join(ALIASES)})")
    # A part may begin with a space, never end with one (as llama.cpp reads them).
    merges = [(merge[: (cut := merge.find(" ", 1))], merge[cut + 1 :]) for merge in given.get("tokenizer.ggml.merges", [])]
    try:
        model = models.BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=named in WHOLE_WORDS)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"tokenizer.ggml.merges do not fit tokenizer.ggml.tokens: {error}") from None
    backend = Backend(model)
    if given.get(NORMALIZER, "nfc" if ALIASES[named] == "qwen2" else "none") == "nfc":
        backend.normalizer = normalizers.NFC()  # type: ignore[assignment]
    backend.pre_tokenizer = split.pre_tokenizer(ALIASES[named])  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return backend


def _sentencepiece(given: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> Backend:
    """SentencePiece's BPE joins the pair whose piece has the best score, the first of equals; here each such join is a merge, best first."""
    scores = given.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) < len(tokens):
        raise ValueError("tokenizer.ggml.scores must be a list as long as tokenizer.ggml.tokens")
    joined = {token: -scores[i] for i, token in enumerate(tokens) if types[i] == NORMAL}
    merges = []
    for token in sorted(joined, key=lambda token: joined[token]):
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        merges += [pair for pair in pairs if pair[0] in joined and pair[1] in joined]
    unknown = next((token for token, t in zip(tokens, types, strict=True) if t == UNKNOWN), None)
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in types))
    prefix = given.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces  # type: ignore[assignment]
    stripped = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *stripped]
    )
    return backend


BUILD = {"gpt2": _byte_level, "llama": _sentencepiece}


def _frame(backend: Backend, given: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Have the tokenizer put begin and end around a text where the file says so, or where llama.cpp does unless it says otherwise."""
    usual = given["tokenizer.ggml.model"] == "llama" or given.get("tokenizer.ggml.pre") in WHOLE_WORDS
    begin = settings["bos_token"] if given.get("tokenizer.ggml.add_bos_token", usual) else None
    end = settings["eos_token"] if given.get("tokenizer.ggml.add_eos_token", False) else None
    if begin or end:
        around = [token for token in (begin, "$A", end) if token]
        backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single=around,
            pair=[*around, *(f"{token}:1" for token in (begin, "$B", end) if token)],
            special_tokens=[(token, backend.token_to_id(token)) for token in (begin, end) if token],
        )


def metadata(folder: Path, vocab: int, end: Sequence[int]) -> dict[str, Any]:
    """The keys for a folder's tokenizer. `vocab`: rows of the model's embedding; `end`: ids that end its answers (generation_config.json).

    ValueError where the tokenizer is not byte-level BPE, or cuts text in a way that has no name in GGUF.
    """
    backend, settings, template = foreign.read(folder)
    layout = json.loads(backend.to_str())
    pre = _pre(layout, backend, folder)
    numbers, added = backend.get_vocab(with_added_tokens=True), backend.get_added_tokens_decoder()
    if max(numbers.values()) >= vocab:
        raise ValueError(f"{folder}: the tokenizer has ids up to {max(numbers.values())}, the model has {vocab} rows")
    tokens, types = [_padding(i) for i in range(vocab)], [UNUSED] * vocab
    for token, i in numbers.items():
        tokens[i], types[i] = token, NORMAL
    for i, one in added.items():
        types[i] = CONTROL if one.special else USER_DEFINED
    bare, framed = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
    roles = {key: numbers.get(special.text_of(settings.get(role)) or "") for role, key in ROLES.items()}
    if roles["eos_token_id"] is None and end:
        roles["eos_token_id"] = end[0]
    turn = next((i for i in end if i != roles["eos_token_id"]), None)
    # llama.cpp takes token 11 where a file names no beginning. Documents were told apart by the end of text in training, as in GPT-2.
    roles["bos_token_id"] = roles["eos_token_id"] if roles["bos_token_id"] is None else roles["bos_token_id"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in layout["model"]["merges"]],
        **{f"tokenizer.ggml.{key}": i for key, i in (roles | {"eot_token_id": turn}).items() if i is not None},
        "tokenizer.ggml.add_bos_token": framed[:1] != bare[:1],
        "tokenizer.ggml.add_eos_token": framed[-1:] != bare[-1:],
        "tokenizer.ggml.add_space_prefix": False,
        NORMALIZER: "nfc" if layout["normalizer"] else "none",
        **({"tokenizer.chat_template": template} if template else {}),
    }


def _pre(layout: Mapping[str, Any], backend: Backend, folder: Path) -> str:
    """GGUF's name for the way a tokenizer.json cuts text. ValueError where llama.cpp would give other ids."""
    model, decoder = layout["model"], layout["decoder"] or {}
    own = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout")
    if model["type"] != "BPE" or decoder.get("type") != "ByteLevel" or any(model.get(key) for key in own) or not model["merges"]:
        raise ValueError(
            f"{folder}: only a byte-level BPE with merges can be exported as GGUF, not {model['type']} with decoder {decoder.get('type')}"
        )
    if layout["normalizer"] not in (None, {"type": "NFC"}):
        raise ValueError(f"{folder}: the tokenizer's normalizer {layout['normalizer']['type']} has no place in GGUF")
    name = split.name_of(dict(layout))
    if name is None:
        raise ValueError(f"{folder}: the tokenizer cuts text in a way that has no name in GGUF ({', '.join(split.GGUF)} have)")
    merging = models.BPE(model["vocab"], [tuple(merge) for merge in model["merges"]])
    added = backend.get_added_tokens_decoder()
    # Whether a word that is a token comes out as that token either way. True of every vocabulary that was trained by merging.
    if all(len(merging.tokenize(token)) == 1 for token, i in model["vocab"].items() if i not in added):
        return split.GGUF[name]
    if name != "llama-3" and model["ignore_merges"]:
        raise ValueError(f"{folder}: tokens that no merge makes (ignore_merges) have no place in GGUF with the cuts of {name}")
    return split.GGUF[name] if model["ignore_merges"] else MERGES_ONLY if name == "llama-3" else split.GGUF[name]


def _padding(i: int) -> str:
    return f"[PAD{i}]"
