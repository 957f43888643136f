"""Pre-tokenization: where a text may be cut before a vocabulary is applied. No merge ever crosses a cut.

The four have names in GGUF files, so a tokenizer that uses one of them is known to llama.cpp:

| name    | GGUF      | digits   | first seen in    |
| gpt-2   | gpt-2     | free     | GPT-2            |
| llama-3 | llama-bpe | group3   | GPT-4, Llama 3   |
| qwen2   | qwen2     | single   | Qwen 2           |
| smollm  | smollm    | single   | StarCoder, SmolLM |

free: a run of digits is one word, so any number may become a token. group3: at most three digits. single: each digit is a token of its own.
"""

from typing import Any, Literal, get_args

from tokenizers import Regex
from tokenizers import pre_tokenizers as pre

Name = Literal["gpt-2", "llama-3", "qwen2", "smollm"]
Digits = Literal["single", "group3", "free"]

_MODERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _MODERN.format(digits=r"\p{N}{1,3}")
QWEN2 = _MODERN.format(digits=r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# SmolLM cuts out each digit first and applies GPT-2's pattern to what lies between; in one pattern, space before a digit is space before an end.
SMOLLM = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"

PATTERNS: dict[str, str] = {"gpt-2": GPT2, "llama-3": LLAMA3, "qwen2": QWEN2, "smollm": SMOLLM}
DIGITS: dict[str, Digits] = {"gpt-2": "free", "llama-3": "group3", "qwen2": "single", "smollm": "single"}
GGUF = {"gpt-2": "gpt-2", "llama-3": "llama-bpe", "qwen2": "qwen2", "smollm": "smollm"}


def pre_tokenizer(name: str) -> pre.PreTokenizer:
    """The cuts of `name`, then each byte as one printable character, spelled as the family's own tokenizer.json spells it."""
    whole = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    if name == "gpt-2":
        return pre.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        return pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False, use_regex=True)])
    if name in ("llama-3", "qwen2"):
        return pre.Sequence([pre.Split(Regex(PATTERNS[name]), "isolated"), whole])
    raise ValueError(f"split {name!r} is not one of {', '.join(get_args(Name))}")


def check_digits(name: str, digits: str) -> None:
    """ValueError where `digits` (empty: whatever the split does) contradicts the split."""
    if digits and digits != DIGITS[name]:
        fitting = " or ".join(split for split, theirs in DIGITS.items() if theirs == digits)
        raise ValueError(f'digits = "{digits}" contradicts split = "{name}", which is "{DIGITS[name]}"; for "{digits}" choose split {fitting}')


def pattern(layout: dict[str, Any]) -> str | None:
    """One regular expression whose matches are the words of a byte-level tokenizer.json; None where its cuts are of another kind."""
    steps = _steps(layout["pre_tokenizer"])
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    before, by_gpt2 = steps[:-1], steps[-1].get("use_regex", True)
    if by_gpt2:
        digits = before == [{"type": "Digits", "individual_digits": True}]
        return SMOLLM if digits else None if before else GPT2
    if len(before) != 1 or before[0]["type"] != "Split":
        return None
    # Keeping only the matches is cutting around them where the matches leave nothing out, as all of these do.
    cut = (before[0]["behavior"], before[0]["invert"]) in (("Isolated", False), ("Removed", True))
    return before[0]["pattern"].get("Regex") if cut else None


def name_of(layout: dict[str, Any]) -> Name | None:
    """Which of the four a tokenizer.json uses."""
    used = pattern(layout)
    return next((name for name in get_args(Name) if PATTERNS[name] == used), None)


def _steps(given: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [] if given is None else given["pretokenizers"] if given["type"] == "Sequence" else [given]
