"""One model under test: what it makes of held-out text, questions and multiple choice. Numbers per item; scores.py sums them up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.core import device
from bessemer.data import checkpoint
from bessemer.data import tokens as token_file
from bessemer.decode import chat
from bessemer.eval import answer, choice, overlap, perplexity
from bessemer.model import weights
from bessemer.model.model import Model
from bessemer.tokenizer.tokenizer import Tokenizer

Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A model under test."""

    model: Model
    tokenizer: Tokenizer
    chat: bool  # asked through its chat template; a base model is asked in plain text


def load(path: Path) -> Subject:
    """Open a checkpoint on the GPU, where there is one."""
    model, tokenizer = checkpoint.load(path, device.pick())
    return Subject(model, tokenizer, chat.answers(weights.generation_defaults(path), tokenizer))


def text(subject: Subject, tokens: Path, total: int, each: int) -> Row:
    """Bits and bytes of held-out documents: about `total` tokens, shared by the domains as they have them, at most `each` of one document."""
    files = token_file.load_all(tokens, "val", subject.tokenizer.vocab)
    everything = sum(len(file.ids) for file in files.values())
    bits: list[float] = []
    sizes: list[int] = []
    for file in files.values():
        picked = perplexity.sample(file, max(1, total * len(file.ids) // everything), each)
        scored = perplexity.documents(subject.model, subject.tokenizer, file, picked, each)
        bits, sizes = bits + scored.bits, sizes + scored.sizes
    return {"bits": bits, "sizes": sizes}


def answers(subject: Subject, questions: Sequence[Row], max_tokens: int) -> Row:
    """Greedy answers, compared with the last message of each question's conversation."""
    asked = [row["messages"][:-1] for row in questions]
    found = answer.answers(subject.model, subject.tokenizer, asked, subject.chat, max_tokens)
    pairs = [(reply.text, row["messages"][-1]["content"]) for reply, row in zip(found, questions, strict=True)]
    return {
        "answers": [reply.text for reply in found],
        "ended": [float(reply.ended) for reply in found],
        "exact_match": [float(overlap.exact_match(*pair)) for pair in pairs],
        "rouge_l": [overlap.rouge_l(*pair) for pair in pairs],
    }


def choices(subject: Subject, questions: Sequence[Row]) -> Row:
    """Whether the likeliest choice is the right one: by its summed log-probability, and per byte."""
    prompts = [answer.prompt(subject.tokenizer, [{"role": "user", "content": row["question"]}], subject.chat) for row in questions]
    # In plain text a space follows "Answer:"; the chat template ends with a line break.
    options = [[subject.tokenizer.encode(option if subject.chat else " " + option) for option in row["choices"]] for row in questions]
    scores = choice.log_likelihoods(subject.model, prompts, options)
    sizes = [[len(option.encode()) for option in row["choices"]] for row in questions]
    picks = {"choice": choice.picks(scores), "choice_per_byte": choice.picks(scores, sizes)}
    return {metric: [float(pick == row["answer"]) for pick, row in zip(found, questions, strict=True)] for metric, found in picks.items()}
