"""A tokenizer with every role, and documents as a token file."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bessemer.data import tokens
from bessemer.data.tokens import TokenFile
from bessemer.tokenizer import bpe, special
from bessemer.tokenizer.tokenizer import Tokenizer

SENTENCES = [
    f"{who} {does} the {what} {where}."
    for who in ("A farmer", "The teacher", "My uncle", "One engineer")
    for does in ("sees", "carries", "forgets")
    for what in ("unbelievable machine", "old lantern", "letter")
    for where in ("in the mountains", "at the harbour", "behind the library")
]


@pytest.fixture(scope="session")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Byte-level BPE with mask, cls, sep, pad and 24 sentinels."""
    folder = tmp_path_factory.mktemp("roles")
    bpe.save(bpe.train([" ".join(SENTENCES)] * 3, 380, special=special.tokens(masks=True, sentinels=24)), folder)
    return Tokenizer.load(folder)


@pytest.fixture(scope="session")
def file_of(roles: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], TokenFile]:
    """Documents -> a token file."""

    def written(texts: Sequence[str]) -> TokenFile:
        folder: Path = tmp_path_factory.mktemp("tokens")
        with tokens.Writer(folder, "train", roles.vocab, roles.end_of_text) as writer:
            for number, ids in enumerate(roles.encode_batch(list(texts))):
                writer.add(f"d{number}", len(texts[number].encode()), ids)
        return tokens.load(folder, "train", roles.vocab)

    return written


@pytest.fixture(scope="session")
def file(file_of: Callable[[Sequence[str]], TokenFile]) -> TokenFile:
    """40 documents of 1 to 12 sentences."""
    return file_of([" ".join(SENTENCES[(7 * n + k) % len(SENTENCES)] for k in range(1 + n % 12)) for n in range(40)])
