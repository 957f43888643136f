"""The tokenizer that every other part uses: loads a tokenizer of any kind, encodes text and conversations."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from bessemer.core import log
from bessemer.tokenizer import bulk, chat, foreign, pieces, special

MANY = 1_000_000  # characters in batches from which on it pays to set up the bulk encoder
SAMPLE = 100_000  # characters of them to compare on
PROBE = "Ⅷ ﬁne  Ünïcode e\u0301\r\n\tText "  # case, spaces, line ends and forms of characters that a normaliser would change
HIDDEN = "\ue0f0", "\ue0f1"  # around the number of a special token that a person typed


class Tokenizer:
    """Text <-> ids. Special tokens written out in a text are plain text here: no input can forge a turn of a conversation.

    Ids of roles, None where the vocabulary has no such token: end_of_turn, begin (put before a text), pad, mask, cls, sep, unk;
    sentinels is a tuple of the ids of <extra_id_0>, <extra_id_1> ... `need` gives one or says how to train a tokenizer that has it.
    """

    def __init__(self, backend: Backend, settings: dict[str, Any] | None = None, template: str | None = None):
        self.backend, self.settings = backend, settings or {}
        self.special = {token.content: i for i, token in sorted(backend.get_added_tokens_decoder().items()) if token.special}
        self.vocab = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        if template is None and {chat.START_OF_TURN, chat.END_OF_TURN} <= self.special.keys():
            template = chat.TEMPLATE
        self.template = template
        self.variables = {name: special.text_of(self.settings.get(name)) or "" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        turn = chat.closing(template, self.special, **self.variables) if template else None
        self.end_of_turn = None if turn is None else self.special[turn]
        self.end_of_text = special.end_of_text(self.settings, self.special, turn)
        self.pad, self.mask, self.cls, self.sep, self.unk = (
            special.role(name, self.settings, self.special) for name in ("pad", "mask", "cls", "sep", "unk")
        )
        self.sentinels = special.sentinels(self.special)
        self.begin = self._begin()
        self._bulk: bulk.Bulk | None = None
        self._seen = 0  # characters encoded in batches so far; -1: no longer counted
        _close(backend, self.special)

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """The tokenizer of an artifact, a checkpoint, or any folder or file that `foreign.read` knows."""
        return Tokenizer(*foreign.read(path))

    @property
    def ends(self) -> list[int]:
        """The ids that end what a model writes: end_of_turn first, where there is one, then end_of_text."""
        return list(dict.fromkeys(i for i in (self.end_of_turn, self.end_of_text) if i is not None))

    def need(self, role: str) -> Any:
        """The id of a role, or the sentinels. ValueError where the vocabulary has none."""
        found = getattr(self, role)
        if found is None or found == ():
            how = special.TRAINED_WITH.get(role)
            raise ValueError(f"this tokenizer has no {role} token" + (f"; train one with {how}" if how else ""))
        return found

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Many texts at once, on all cores; byte-level BPE by tiktoken where that was shown to give the same ids."""
        texts = list(texts)
        if self._seen >= 0:
            self._seen += sum(map(len, texts))
            if self._seen >= MANY:
                self._seen, self._bulk = -1, self._bulk_of(texts)
        if self._bulk:
            return self._bulk(texts)
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=skip_special)

    @cached_property
    def layout(self) -> dict[str, Any]:
        """The tokenizer.json, as data."""
        return json.loads(self.backend.to_str())

    def token_bytes(self) -> tuple[int, ...]:
        """UTF-8 bytes that each id stands for; 0 for special tokens, which are not text."""
        return self._token_bytes

    @cached_property
    def _token_bytes(self) -> tuple[int, ...]:
        return tuple(len(text) for text in pieces.texts(self.layout))

    @cached_property
    def lead(self) -> int:
        """Bytes that encoding puts before a text and decoding takes off: 1 where SentencePiece adds a space, else 0."""
        widths = self.token_bytes()
        return max(0, sum(widths[i] for i in self.encode("a")) - len("a"))

    @cached_property
    def exact(self) -> bool:
        """Whether ids keep a text as it is; some tokenizers of others change case, spaces or the forms of characters."""
        widths = self.token_bytes()
        return sum(widths[i] for i in self.encode(PROBE)) - len(PROBE.encode()) in (0, self.lead)

    def word_starts(self) -> list[bool]:
        """Whether a new word begins with each id."""
        return pieces.word_starts(self.layout)

    def chat(self, messages: Sequence[dict[str, Any]], reply: bool = False, tools: Sequence[dict[str, Any]] = ()) -> tuple[list[int], list[float]]:
        """A conversation as ids, and as many weights: 1 on what the assistant says and on its end of turn, else 0.

        `reply` adds the header of the assistant's next turn, for generation. `tools`: descriptions of functions the assistant may call.
        ValueError where there is no chat template, or it refuses these messages.
        """
        chat.check(messages)
        ids: list[int] = []
        weights: list[float] = []
        shown = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            header, answer = self._render(messages[:i], True, tools), self._render(messages[: i + 1], False, tools)
            end = self._end_of_answer(answer, len(header)) if header.startswith(shown) and answer.startswith(header) else 0
            if not end:
                raise ValueError("this chat template does not append turn by turn, so the assistant's tokens cannot be told from the rest")
            for text, weight in ((header[len(shown) :], 0.0), (answer[len(header) : end], 1.0)):
                piece = self._encode_rendered(text)
                ids += piece
                weights += [weight] * len(piece)
            shown = answer[:end]
        rest = self._encode_rendered(self._render(messages, reply, tools)[len(shown) :])
        return ids + rest, weights + [0.0] * len(rest)

    def _end_of_answer(self, answer: str, begin: int) -> int:
        """Where the assistant's last turn ends in the rendered text, its closing token included; 0 where it is not closed."""
        turn = next((token for token, i in self.special.items() if i == self.end_of_turn), None)
        at = answer.rfind(turn, begin) if turn else -1
        return at + len(turn) if turn and at >= 0 else 0

    def _render(self, messages: Sequence[dict[str, Any]], reply: bool, tools: Sequence[dict[str, Any]]) -> str:
        """The template's text, with the special tokens that a person typed hidden behind private-use characters."""
        if self.template is None:
            raise ValueError("this tokenizer has no chat template, so it cannot encode conversations")
        hidden, functions = (chat.texts_changed(list(given), self._hide) for given in (messages, tools))
        return chat.render(self.template, hidden, reply, tools=functions or None, **self.variables)

    @cached_property
    def _hideable(self) -> tuple[str, ...]:
        return (HIDDEN[0], *self.special)  # the mark itself comes first: a text may hold it too

    def _hide(self, content: str) -> str:
        for number, token in enumerate(self._hideable):
            content = content.replace(token, f"{HIDDEN[0]}{number}{HIDDEN[1]}")
        return content

    def _encode_rendered(self, text: str) -> list[int]:
        """Encode rendered text: the template's special tokens become their ids, everything else is plain."""
        ids: list[int] = []
        names = sorted(self.special, key=len, reverse=True)
        for piece in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
            if piece in self.special:
                ids.append(self.special[piece])
            elif piece:
                ids += self.encode(re.sub(f"{HIDDEN[0]}(\\d+){HIDDEN[1]}", lambda found: self._hideable[int(found[1])], piece))
        return ids

    def _begin(self) -> int | None:
        """The token that the family puts before each text: what its post-processor says, or a bos_token that is to be added."""
        bare, framed = (self.backend.encode("a", add_special_tokens=add).ids for add in (False, True))
        if framed != bare and framed[0] in self.special.values() and framed[0] != bare[:1]:
            return framed[0]
        return self.special.get(self.variables["bos_token"]) if self.settings.get("add_bos_token") else None

    def _bulk_of(self, texts: Sequence[str]) -> bulk.Bulk | None:
        if not isinstance(self.backend.model, models.BPE):
            return None  # there is no faster way for the other kinds
        sample, left = [], SAMPLE
        for text in texts:
            sample.append(text[:left])
            left -= len(sample[-1])
            if not left:
                break
        try:
            return bulk.Bulk(self.backend, sample)
        except bulk.Refused as reason:
            log.say(f"encoding with tokenizers, not the faster tiktoken: {reason}")
            return None


def _close(backend: Backend, special: dict[str, int]) -> None:
    """Keep text from becoming special tokens.

    `tokenizers` is told to read them as text; but where a vocabulary holds them as pieces like any other (T5's </s>), text that spells one
    would still become it. Such texts are cut after the first character, once everything else has been done to them.
    """
    backend.encode_special_tokens = True
    open_ = [token for token, i in special.items() if len(token) > 1 and i in backend.encode(token, add_special_tokens=False).ids]
    written = [re.escape(token[0]) + "(?=" + re.escape(token[1:]) + ")" for token in open_]
    if isinstance(backend.model, models.Unigram) and backend.token_to_id("<0x0A>") is not None:
        written.append("<(?=0x[0-9A-F]{2}>)")
    if written:
        cut = pre_tokenizers.Split(Regex("|".join(written)), "merged_with_previous")
        given = backend.pre_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence([given, cut]) if given else cut  # type: ignore[assignment]
