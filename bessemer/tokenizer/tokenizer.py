"""The tokenizer that every other part uses: loads a `tokenizer.json`, encodes text and conversations."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from bessemer.tokenizer import chat


class Tokenizer:
    """Text <-> ids. Special tokens written out in a text are plain text here: no input can forge a turn of a conversation."""

    def __init__(self, backend: Backend, template: str = chat.TEMPLATE):
        self.backend = backend
        self.backend.encode_special_tokens = True
        self.template = template
        self.special = {token.content: i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        for token in (chat.END_OF_TEXT, chat.END_OF_TURN):
            if token not in self.special:
                raise ValueError(f"the tokenizer has no special token {token}")
        self.end_of_text = self.special[chat.END_OF_TEXT]
        self.end_of_turn = self.special[chat.END_OF_TURN]
        self.vocab = backend.get_vocab_size()

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """Read the tokenizer of an artifact or checkpoint folder."""
        file = path / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"{path} holds no tokenizer.json")
        return Tokenizer(Backend.from_file(str(file)), _template(path))

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Many texts at once, on all cores."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=skip_special)

    def token_bytes(self) -> list[int]:
        """UTF-8 bytes that each id stands for; 0 for special tokens, which are not text."""
        lengths = [0] * self.vocab
        for token, i in self.backend.get_vocab(with_added_tokens=True).items():
            # A byte-level token is written with one printable character per byte.
            lengths[i] = 0 if token in self.special else len(token)
        return lengths

    def chat(self, messages: Sequence[dict[str, Any]], reply: bool = False) -> tuple[list[int], list[float]]:
        """A conversation as ids, and as many weights: 1 on what the assistant says and on its end of turn, else 0.

        `reply` adds the header of the assistant's next turn, for generation.
        """
        chat.check(messages)
        ids: list[int] = []
        weights: list[float] = []
        shown = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            header, answer = self._render(messages[:i], reply=True), self._render(messages[: i + 1], reply=False)
            if not (header.startswith(shown) and answer.startswith(header) and chat.END_OF_TURN in answer[len(header) :]):
                raise ValueError("this chat template does not append turn by turn, so the assistant's tokens cannot be told from the rest")
            end = answer.rindex(chat.END_OF_TURN) + len(chat.END_OF_TURN)
            for text, weight in ((header[len(shown) :], 0.0), (answer[len(header) : end], 1.0)):
                piece = self._encode_rendered(text)
                ids += piece
                weights += [weight] * len(piece)
            shown = answer[:end]
        rest = self._encode_rendered(self._render(messages, reply)[len(shown) :])
        return ids + rest, weights + [0.0] * len(rest)

    def _render(self, messages: Sequence[dict[str, Any]], reply: bool) -> str:
        """The template's text, with the special tokens that a person typed hidden behind private-use characters."""
        hidden = [{**message, "content": self._hide(message["content"])} for message in messages]
        return chat.render(self.template, hidden, reply)

    def _hide(self, content: str) -> str:
        for number, token in enumerate(self.special):
            content = content.replace(token, f"\ue0f0{number}\ue0f1")
        return content

    def _encode_rendered(self, text: str) -> list[int]:
        """Encode rendered text: the template's special tokens become their ids, everything else is plain."""
        names = list(self.special)

        def shown(found: re.Match[str]) -> str:
            return names[int(found[1])] if int(found[1]) < len(names) else found[0]

        ids: list[int] = []
        for piece in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
            if piece in self.special:
                ids.append(self.special[piece])
            elif piece:
                ids += self.encode(re.sub("\ue0f0(\\d+)\ue0f1", shown, piece))
        return ids


def _template(path: Path) -> str:
    """The chat template of a folder: a file of its own, or, in older checkpoints, a field of the tokenizer's config; else ChatML."""
    file, settings = path / "chat_template.jinja", path / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    given = json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.is_file() else None
    return given if isinstance(given, str) else chat.TEMPLATE
