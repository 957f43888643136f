"""Chat in the terminal: the answer appears token by token, the conversation is remembered as far as the context reaches.

A base checkpoint was never taught to answer: it continues what is typed. An encoder-decoder rewrites it, line by line.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Interval

from bessemer.core import log
from bessemer.core.config import Count, Whole

if TYPE_CHECKING:  # torch takes a second to import, and `bessemer --help` reads ChatConfig
    from bessemer.tokenizer.tokenizer import Tokenizer

Message = dict[str, Any]
Reply = Callable[[list[int]], Iterator[int]]  # ids of a prompt, or of an encoder-decoder's source -> ids as they come
HELP = "/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer"
BROKEN = "\ufffd"  # what bytes that are no character yet decode to


@dataclass(frozen=True)
class ChatConfig:
    temperature: Annotated[float, Ge(0)] | None = None  # 0 takes the likeliest token every time; not given: the checkpoint's default
    top_k: Whole | None = None  # sample among this many tokens, 0: among all; not given: the checkpoint's default
    top_p: Annotated[float, Interval(gt=0, le=1)] | None = None  # sample among the likeliest of this total probability; not given: as above
    max_tokens: Count = 256  # length of an answer, never more than half of the context
    system: str = ""  # an instruction that stands before the conversation
    seed: Whole = 0  # equal seeds and inputs give equal answers


def chat(checkpoint: Path, cfg: ChatConfig) -> None:
    """Talk to a checkpoint, on the terminal or through a pipe: one line in, one answer out."""
    if not checkpoint.exists():
        raise FileNotFoundError(f"checkpoint {checkpoint} does not exist")
    for name in ("config.json", "tokenizer.json"):
        if not (checkpoint / name).is_file():
            raise FileNotFoundError(f"{checkpoint} is not a checkpoint: it holds no {name}")
    from bessemer.data.checkpoint import load
    from bessemer.data.seq2seq import start_of
    from bessemer.decode.generate import stream
    from bessemer.decode.sample import Sampling
    from bessemer.model import weights

    shape = weights.load_config(checkpoint).shape
    if shape == "encoder":
        raise ValueError(f"{checkpoint} is an encoder: it reads text and writes none, so there is nothing to chat with")
    (model, tokenizer), defaults = load(checkpoint, shapes=(shape,)), weights.generation_defaults(checkpoint)
    length = min(cfg.max_tokens, model.cfg.context // 2)
    sampling = Sampling(length, *settings(cfg, defaults), cfg.seed)
    stop = set(tokenizer.ends)
    start = [defaults.get("decoder_start_token_id", start_of(tokenizer))]

    def reply(ids: list[int]) -> Iterator[int]:
        return stream(model, start, sampling, stop, source=ids) if shape == "encdec" else stream(model, ids, sampling, stop)

    if shape == "encdec":
        if cfg.system:
            raise ValueError(f"system: {checkpoint} is an encoder-decoder, which takes one text at a time and no instruction beside it")
        rewrite(typed("source> "), tokenizer, reply, model.cfg.context)
    elif answers(defaults, tokenizer):
        converse(typed("> "), tokenizer, reply, model.cfg.context - length, cfg.system)
    else:
        log.say(f"{checkpoint} is a base model: it has not learned to answer, so it continues your text")
        carry_on(typed("text> "), tokenizer, reply, model.cfg.context - length)


def answers(defaults: dict[str, Any], tokenizer: "Tokenizer") -> bool:
    """Whether a checkpoint is chat-tuned: only such a one ends its text with the end of a turn (see generation_config.json)."""
    return tokenizer.end_of_turn in defaults["eos_token_id"]


def settings(cfg: ChatConfig, defaults: dict[str, Any]) -> tuple[float, int, float]:
    """Temperature, top-k and top-p: the user's where given, else the checkpoint's, which are those of `transformers`."""
    sampled = defaults.get("do_sample", False)
    temperature = defaults.get("temperature", 1.0) if sampled else 0.0
    return (
        temperature if cfg.temperature is None else cfg.temperature,
        (defaults.get("top_k") or 0) if cfg.top_k is None else cfg.top_k,
        (defaults.get("top_p") or 1.0) if cfg.top_p is None else cfg.top_p,
    )


def converse(lines: Iterable[str], tokenizer: "Tokenizer", reply: Reply, room: int, system: str = "") -> None:
    """Answer line after line, each in the light of the conversation so far. `room`: tokens a prompt may have."""
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    turns: list[Message] = []
    for line in lines:
        if line == "/reset":
            turns = []
        elif line.startswith("/"):
            log.say(HELP if line == "/help" else f"{line.split()[0]} is no command: {HELP}")
        else:
            turns.append({"role": "user", "content": line})
            try:
                turns = fit(opening, turns, tokenizer, room)
            except ValueError as error:
                turns.pop()
                _refuse(error)
                continue
            prompt, _ = tokenizer.chat([*opening, *turns], reply=True)
            turns.append({"role": "assistant", "content": show(text_of(reply(prompt), tokenizer))})


def carry_on(lines: Iterable[str], tokenizer: "Tokenizer", reply: Reply, room: int) -> None:
    """Continue each line as a text of its own."""
    for line in lines:
        if line.startswith("/"):
            log.say(f"{line.split()[0]} means nothing to a base model; /quit or Ctrl-D ends")
            continue
        ids = tokenizer.encode(line)
        if len(ids) + 1 > room:
            _refuse(ValueError(f"the text has {len(ids)} tokens, {room - 1} fit: shorten it, or lower max_tokens"))
            continue
        print(line, end="", flush=True)
        show(text_of(reply([tokenizer.end_of_text, *ids]), tokenizer))


def rewrite(lines: Iterable[str], tokenizer: "Tokenizer", reply: Reply, room: int) -> None:
    """What an encoder-decoder makes of each line, the lines apart. `room`: tokens a source may have, its end included."""
    for line in lines:
        if line.startswith("/"):
            log.say(f"{line.split()[0]} means nothing to an encoder-decoder; /quit or Ctrl-D ends")
            continue
        ids = [*tokenizer.encode(line), tokenizer.end_of_text]
        if len(ids) > room:
            _refuse(ValueError(f"the text has {len(ids) - 1} tokens, {room - 1} fit: shorten it"))
            continue
        show(text_of(reply(ids), tokenizer))


def fit(opening: Sequence[Message], turns: list[Message], tokenizer: "Tokenizer", room: int) -> list[Message]:
    """`turns` without its oldest question-answer pairs, so that the prompt has at most `room` tokens. The last question stays."""
    while (length := len(tokenizer.chat([*opening, *turns], reply=True)[0])) > room:
        if len(turns) == 1:
            what = "message" if not opening else "message, with the system instruction,"
            raise ValueError(f"the {what} has {length} tokens, {room} fit: shorten it, or lower max_tokens")
        turns = turns[2:]
    return turns


def text_of(ids: Iterable[int], tokenizer: "Tokenizer") -> Iterator[str]:
    """Text as soon as it is whole: a byte-level token may end inside a character, whose other bytes come later."""
    held: list[int] = []
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held)
        # No character has more than four bytes, so what is still broken after four tokens will not heal.
        if not text.endswith(BROKEN) or len(held) >= 4:
            yield text
            held = []
    if held:
        yield tokenizer.decode(held)


def show(pieces: Iterator[str]) -> str:
    """Print an answer as it comes, and return it. Ctrl-C ends it early."""
    said = []
    try:
        for piece in pieces:
            said.append(piece)
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    print(flush=True)
    return "".join(said)


def typed(prompt: str) -> Iterator[str]:
    """Lines without the empty ones, until the input ends or says /quit."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  (input() then has history and line editing)

        log.say(HELP)
    while True:
        try:
            line = input(prompt if sys.stdin.isatty() else "").strip()
            line.encode()  # in the C locale, bytes that are no UTF-8 arrive as lone surrogates
        except EOFError:
            return
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print()
            return
        except UnicodeError:
            raise ValueError("the input is not UTF-8 text") from None
        if line == "/quit":
            return
        if line:
            yield line


def _refuse(error: ValueError) -> None:
    """A person can type something else; a script must learn that a line got no answer."""
    if not sys.stdin.isatty():
        raise error
    log.say(str(error))
