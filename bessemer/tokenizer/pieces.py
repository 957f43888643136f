"""What each id of a vocabulary stands for: its bytes, and whether a new word begins with it."""

import json
import re
import unicodedata
from typing import Any

SPACE = "▁"  # how SentencePiece writes a space
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# Scripts written without spaces between words: each token there counts as a word.
UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ")


def _alphabet() -> list[str]:
    """A printable character for each byte (Radford et al. 2019): itself where it is visible, else the next one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


ALPHABET = _alphabet()
BYTE_OF = {character: byte for byte, character in enumerate(ALPHABET)}


def spell(data: bytes) -> str:
    """Bytes in the printable alphabet."""
    return "".join(ALPHABET[byte] for byte in data)


def unspell(piece: str) -> bytes:
    """The bytes that a piece in the printable alphabet stands for."""
    return bytes(BYTE_OF[character] for character in piece)


def vocabulary(layout: dict[str, Any]) -> dict[str, int]:
    """Every piece of a tokenizer.json and its id, added tokens included."""
    vocab = layout["model"]["vocab"]
    ids = {piece: i for i, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    return ids | {token["content"]: token["id"] for token in layout["added_tokens"]}


def texts(layout: dict[str, Any]) -> list[bytes]:
    """The bytes of each id as it stands within a text; empty for special tokens, which are not text."""
    model, vocab = layout["model"], vocabulary(layout)
    prefix = model.get("continuing_subword_prefix") or ""
    added = {token["id"]: b"" if token["special"] else token["content"].encode() for token in layout["added_tokens"]}
    byte_level = '"ByteLevel"' in json.dumps(layout["decoder"])
    found = [b""] * (max(vocab.values()) + 1)
    for piece, i in vocab.items():
        if i in added:
            found[i] = added[i]
        elif byte_level:
            found[i] = unspell(piece.removeprefix(prefix))
        elif model.get("byte_fallback") and (byte := BYTE.fullmatch(piece)):
            found[i] = bytes([int(byte[1], 16)])
        else:
            found[i] = piece.removeprefix(prefix).replace(SPACE, " ").encode()
    return found


def word_starts(layout: dict[str, Any]) -> list[bool]:
    """Whether a new word begins with each id.

    A piece that goes on with letters or digits, without a space before them, continues a word; a space, a sign or a special token begins
    one. Where the vocabulary marks continuations itself (WordPiece), the mark decides.
    """
    given = texts(layout)
    prefix = layout["model"].get("continuing_subword_prefix")
    if not prefix:
        return [_begins(text) for text in given]
    inner = {i for piece, i in vocabulary(layout).items() if piece.startswith(prefix)}
    return [i not in inner for i in range(len(given))]


def _begins(text: bytes) -> bool:
    if text and 0x80 <= text[0] < 0xC0:  # the rest of a character that another token began
        return False
    first = text.decode("utf-8", "ignore")[:1]
    return not (first.isalnum() or unicodedata.combining(first or " ")) or unicodedata.name(first, "").startswith(UNSPACED)
