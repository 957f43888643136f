"""Prompt and answer of an instruction row, whichever of the usual layouts it has."""

import re
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
CHATS = ("messages", "conversations")
PROMPTS = ("instruction", "prompt", "question", "input")  # the first of these that a row has; `input` may follow an instruction
ANSWERS = ("output", "response", "completion", "answer")
ASSISTANT = ("assistant", "gpt", "model", "bot")
SPECIAL = re.compile(r"<\|[^|<>]*\|>|</s>")  # tokens that end a text


def of(row: Row) -> tuple[str, str] | None:
    """(prompt, answer) of a row: of a conversation everything before the last answer, and that answer. None where it has no such."""
    for name in CHATS:
        if isinstance(row.get(name), list):
            return _last(row[name])
    named = [name for name in PROMPTS if isinstance(row.get(name), str)]
    answers = [row[name] for name in ANSWERS if isinstance(row.get(name), str)]
    if not named or not answers:
        return None
    prompt = row[named[0]]
    if named[0] == "instruction" and isinstance(row.get("input"), str):
        prompt = f"{prompt}\n{row['input']}"
    return SPECIAL.sub("", prompt).strip(), SPECIAL.sub("", answers[0]).strip()


def _last(messages: Sequence[Any]) -> tuple[str, str] | None:
    turns = [(str(m.get("role", m.get("from"))), str(m.get("content", m.get("value")) or "")) for m in messages if isinstance(m, dict)]
    if len(turns) < 2 or turns[-1][0] not in ASSISTANT:
        return None
    *before, (_, answer) = turns
    # One question alone stands for itself, so that rows of several layouts can be compared.
    prompt = before[0][1] if len(before) == 1 else "\n".join(f"{role}: {said}" for role, said in before)
    return prompt.strip(), answer.strip()
