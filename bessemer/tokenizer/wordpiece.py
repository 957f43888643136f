"""Train a WordPiece tokenizer (Schuster and Nakajima 2012, Devlin et al. 2019) over bytes, so that no text is unknown.

A word is taken apart from its front, the longest known piece each time. Pieces inside a word carry a mark; BERT's, ##, could also
stand in a text, so ours is a character that the printable alphabet of bytes does not have.
"""

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from bessemer.tokenizer import bpe, chat, split
from bessemer.tokenizer.pieces import ALPHABET

INSIDE = "＃＃"  # before a piece that continues a word
FRONT = "▁"  # before a word, in training only
LONGEST = 32  # characters of a word: taking one apart costs the square of its length


def smallest(special: Sequence[str] = chat.SPECIAL) -> int:
    """A vocabulary of single bytes: each at the front of a word and inside one."""
    return 2 * 256 + len(special)


def train(texts: Iterable[str], vocab: int, cuts: split.Name = "llama-3", special: Sequence[str] = chat.SPECIAL) -> Backend:
    """Learn pieces until there are `vocab` entries: the bytes in both forms, longer pieces by frequency, special tokens.

    Equal texts give an equal tokenizer, byte for byte. ValueError where the texts do not hold that many distinct pieces.
    """
    if vocab < smallest(special):
        raise ValueError(f"vocab {vocab} is too small: 256 bytes, each in two forms, and {len(special)} special tokens need {smallest(special)}")
    longer = _longer_pieces(texts, vocab - smallest(special), cuts)
    entries = [*ALPHABET, *(INSIDE + letter for letter in ALPHABET), *longer]
    known = dict(zip(entries, range(len(entries)), strict=True))
    if len(known) + len(special) < vocab:
        raise ValueError(
            f"vocab {vocab} is larger than this corpus allows: its pieces end at {len(known) + len(special)} entries; ask for fewer or add text"
        )
    # No word is longer than LONGEST characters of at most four bytes, and every byte is known: nothing becomes the unknown token.
    backend = Backend(models.WordPiece(known, unk_token=special[0], max_input_chars_per_word=4 * LONGEST, continuing_subword_prefix=INSIDE))
    backend.pre_tokenizer = pre_tokenizers.Sequence(_words(cuts))  # type: ignore[assignment]
    backend.decoder = decoders.Sequence([decoders.Replace(INSIDE, ""), decoders.ByteLevel()])  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return backend


def _words(cuts: split.Name) -> list[pre_tokenizers.PreTokenizer]:
    patterns = (split.PATTERNS[cuts], f"(?m).{{1,{LONGEST}}}")  # to Oniguruma, (?m) is: a dot is a line break too
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [*(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns), whole]


def _longer_pieces(texts: Iterable[str], count: int, cuts: split.Name) -> list[str]:
    """Pieces of two bytes or more, most frequent merges first.

    They are BPE's merges over words with FRONT before them: a piece that begins with it stands at the front. The trainer for WordPiece
    in `tokenizers` would spare that detour, but meets its letters in the order of a hash table and learns other pieces each time.
    """
    backend = Backend(models.BPE())
    front = pre_tokenizers.Metaspace(replacement=FRONT, prepend_scheme="always", split=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*_words(cuts), front])  # type: ignore[assignment]
    alphabet = sorted([*pre_tokenizers.ByteLevel.alphabet(), FRONT])
    # Up to 256 merges only put FRONT before a byte.
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + 256 + count, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(bpe.chunks(texts), trainer)
    learnt = sorted(backend.get_vocab().items(), key=lambda entry: entry[1])
    forms = [piece.removeprefix(FRONT) if piece.startswith(FRONT) else INSIDE + piece for piece, _ in learnt]
    return [form for form in forms if len(form.removeprefix(INSIDE)) > 1][:count]
