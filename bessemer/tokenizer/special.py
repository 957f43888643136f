"""Special tokens and the roles they play: which ones a new tokenizer gets, and which token of a foreign one plays which role."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bessemer.tokenizer import chat

MASKS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}  # named as in BERT
SENTINEL = re.compile(r"<extra_id_(\d+)>")  # T5's
# What families call a token whose role their settings do not state, the likelier name first.
USUAL = {
    "pad": ("[PAD]", "<pad>", "<|padding|>", "<|pad|>"),
    "mask": ("[MASK]", "<mask>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "unk": ("[UNK]", "<unk>"),
    "end_of_text": ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|end▁of▁sentence|>", "[SEP]", "[EOS]"),
}
TRAINED_WITH = {"pad": "masks = true", "mask": "masks = true", "cls": "masks = true", "sep": "masks = true", "sentinels": "sentinels = 100"}


def tokens(masks: bool = False, sentinels: int = 0, more: Sequence[str] = ()) -> list[str]:
    """The special tokens of a new tokenizer, in order. ValueError where one of `more` is empty or there already."""
    found = [*chat.SPECIAL, *(MASKS.values() if masks else ()), *(f"<extra_id_{i}>" for i in range(sentinels))]
    for token in more:
        if not token.strip() or token in found:
            raise ValueError(f"special: {token!r} is {'there already' if token in found else 'empty'}")
        found.append(token)
    return found


def settings(tokens: Sequence[str]) -> dict[str, Any]:
    """tokenizer_config.json for a new tokenizer: each special token under its role, so that `transformers` knows it."""
    masks = {role: token for role, token in MASKS.items() if token in tokens}
    roles = {"bos_token": None, "eos_token": chat.END_OF_TEXT, "pad_token": chat.END_OF_TEXT, "unk_token": None} | masks
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "additional_special_tokens": [token for token in tokens if token not in roles.values()],
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }


def text_of(token: Any) -> str | None:
    """A token as settings spell it: text, or an object with `content`."""
    return token.get("content") if isinstance(token, dict) else token if isinstance(token, str) else None


def role(name: str, settings: Mapping[str, Any], special: Mapping[str, int]) -> int | None:
    """Id of the token that plays pad, mask, cls, sep or unk."""
    stated = text_of(settings.get(f"{name}_token"))
    return next((special[token] for token in (stated, *USUAL[name]) if token is not None and token in special), None)


def sentinels(special: Mapping[str, int]) -> tuple[int, ...]:
    """Ids of <extra_id_0>, <extra_id_1>, ..., in the order of their numbers."""
    numbered = {int(found[1]): i for token, i in special.items() if (found := SENTINEL.fullmatch(token))}
    return tuple(numbered[number] for number in sorted(numbered))


def end_of_text(settings: Mapping[str, Any], special: Mapping[str, int], end_of_turn: str | None) -> int:
    """Id of the token between two documents. ValueError where there is none.

    Chat models state their end of turn as eos_token; the token that ended documents in pretraining is another one, if they have it.
    """
    stated = text_of(settings.get("eos_token"))
    usual = [token for token in USUAL["end_of_text"] if token in special]
    order = [stated, *usual] if stated != end_of_turn else [*usual, stated]
    found = next((special[token] for token in order if token is not None and token in special), None)
    if found is not None:
        return found
    numbers = settings.get("eos_token_id")
    for number in numbers if isinstance(numbers, list) else [numbers]:
        if isinstance(number, int) and number in special.values():
            return number
    names = ", ".join(list(special)[:8]) or "none"
    raise ValueError(f"the tokenizer names no token that ends a text: no eos_token in tokenizer_config.json; its special tokens are {names}")
