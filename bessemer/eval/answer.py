"""Answers to held-out questions: the same questions for a base model, which continues a text, and a chat-tuned one, which answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bessemer.core import log
from bessemer.decode.generate import generate
from bessemer.decode.sample import Sampling
from bessemer.model.model import Model
from bessemer.tokenizer.tokenizer import Tokenizer

ROWS = 64  # questions answered at once
PLAIN = {"system": "", "user": "Question: ", "assistant": "Answer: ", "tool": "Result: "}


@dataclass(frozen=True)
class Answer:
    text: str
    ended: bool  # by the model's own decision, not because it reached the limit


def prompt(tokenizer: Tokenizer, messages: Sequence[dict[str, Any]], chat: bool) -> list[int]:
    """A conversation as the model wants to be asked: its chat template, or plain text that ends in "Answer:"."""
    if chat:
        return tokenizer.chat(messages, reply=True)[0]
    return [tokenizer.end_of_text, *tokenizer.encode(plain(messages))]


def plain(messages: Sequence[dict[str, Any]]) -> str:
    """A conversation as text that a base model may have seen the like of: `Question: ...`, next line `Answer:`."""
    return "".join(f"{PLAIN[m['role']]}{(m.get('content') or '').strip()}\n" for m in messages) + "Answer:"


def answers(model: Model, tokenizer: Tokenizer, conversations: Sequence[Sequence[dict[str, Any]]], chat: bool, max_tokens: int) -> list[Answer]:
    """The likeliest answer (greedy) to each conversation. A base model's ends before the first token that breaks the line.

    A prompt that leaves no room for `max_tokens` in the model's context loses its beginning.
    """
    room = check_room(model.cfg.context, max_tokens)
    stop = set(tokenizer.ends) | (set() if chat else line_ends(tokenizer))
    prompts = [prompt(tokenizer, messages, chat)[-room:] for messages in conversations]
    found = [Answer("", False)] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))  # questions of one length end up in one batch
    with log.progress("answers", len(prompts)) as bar:
        for begin in range(0, len(order), ROWS):
            batch = order[begin : begin + ROWS]
            for number, ids in zip(batch, generate(model, [prompts[i] for i in batch], Sampling(max_tokens), stop), strict=True):
                found[number] = Answer(tokenizer.decode(ids).strip(), len(ids) < max_tokens)
            bar.advance(len(batch))
    return found


def check_room(context: int, max_tokens: int) -> int:
    """Tokens that a context leaves for the question. ValueError where there are none."""
    if max_tokens >= context:
        raise ValueError(f"max_tokens: answers of {max_tokens} tokens leave no room for a question in a context of {context}")
    return context - max_tokens


def line_ends(tokenizer: Tokenizer) -> set[int]:
    """Every token with a line break in it."""
    return {i for i in range(tokenizer.vocab) if "\n" in tokenizer.decode([i])}
