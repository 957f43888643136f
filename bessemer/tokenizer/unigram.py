"""Train a unigram tokenizer (Kudo 2018) with `sentencepiece`, over bytes, so that no text is unknown and every text comes back exactly.

SentencePiece learns from raw text, spaces included, and needs no words: languages without spaces are like any other. What it learns is
stored in the printable alphabet of bytes, as the other kinds are, beside all 256 single bytes. SentencePiece's own format would write a
space as U+2581, and lose the texts that hold that character; and a literal <0x0A> would read as a byte.
"""

import io
import random
import re
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from bessemer.core import log
from bessemer.tokenizer import bpe, chat, split
from bessemer.tokenizer.pieces import ALPHABET, SPACE, spell

SAMPLE = 8192  # chunks of 4 KB that the trainer sees: it holds them all in memory, and its time grows with them
THREADS = 4  # of the trainer, whatever the machine has: sums of another grouping would give other scores
SEED = 0
# Characters of a training sentence. The trainer starts from substrings that occur in several surroundings; whole lines hide common words that
# always stand before a space, and cost 1 to 15 % more tokens (docs/tokenizers.md).
SENTENCE = 100
RESERVED = re.compile(f"[\0{SPACE}▅]+")  # the trainer uses these characters itself; in a text they become bytes
UNLIKELY = 10.0  # how much less likely, in nats, a single byte is than the least likely piece
# No piece has a space after something else, so cutting there changes nothing but the speed.
WORDS = " *[^ ]+"


def smallest(special: Sequence[str] = chat.SPECIAL) -> int:
    """A vocabulary of bytes; the characters of the corpus, and pieces, come on top."""
    return 256 + len(special)


def train(texts: Iterable[str], vocab: int, digits: split.Digits = "free", special: Sequence[str] = chat.SPECIAL) -> Backend:
    """Learn pieces until there are `vocab` entries: pieces by likelihood, bytes, special tokens.

    Equal texts give an equal tokenizer, byte for byte, on machines of any number of cores; above SAMPLE chunks, a fixed draw of them is
    learnt from. `digits`: "single" makes each digit a piece of its own, "free" lets pieces hold several.
    ValueError where the texts have too many different characters for `vocab`, or too few pieces.
    """
    if vocab <= smallest(special):
        raise ValueError(f"vocab {vocab} is too small: 256 bytes and {len(special)} special tokens need {smallest(special)}, and pieces come on top")
    learnt = _pieces(texts, vocab - smallest(special), digits, smallest(special))
    scores = {spell(piece.replace(SPACE, " ").encode()): score for piece, score in learnt}
    floor = min(scores.values()) - UNLIKELY
    bytes_left = [(letter, floor) for letter in ALPHABET if letter not in scores]
    kept = sorted(scores.items(), key=lambda entry: -entry[1])
    single = [entry for entry in kept if len(entry[0]) == 1]
    longer = [entry for entry in kept if len(entry[0]) > 1][: vocab - smallest(special)]
    backend = Backend(models.Unigram([*longer, *single, *bytes_left], None, False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return backend


def _pieces(texts: Iterable[str], count: int, digits: split.Digits, beside: int) -> list[tuple[str, float]]:
    """Pieces and their log-probabilities: `count` of more than one byte, and those of one byte."""
    try:
        import sentencepiece
    except ModuleNotFoundError:
        raise ValueError('kind = "unigram" needs sentencepiece: pip install "bessemer[data]"') from None
    parts = [part for chunk in _sample(bpe.chunks(texts)) for part in RESERVED.split(chunk)]
    chosen = [part[begin : begin + SENTENCE] for part in parts for begin in range(0, len(part), SENTENCE)]
    if not chosen:
        raise ValueError("there is no text to learn a tokenizer from")
    log.say(f"tokenizer: learning {count} pieces from {sum(map(len, chosen)) / 1e6:.1f} million characters")
    written = io.BytesIO()
    bare = len({letter for part in chosen for letter in part if letter < "\x80"}) + 1  # characters of one byte, and <unk>
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(chosen), model_writer=written, model_type="unigram", vocab_size=count + bare, hard_vocab_limit=True,
            normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
            split_digits=digits == "single", character_coverage=0.9995, max_sentence_length=2**30, input_sentence_size=0,
            shuffle_input_sentence=False, num_threads=THREADS, unk_id=0, bos_id=-1, eos_id=-1, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        raise ValueError(_explained(str(error), count + beside, beside - bare)) from None
    made = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return [(made.id_to_piece(i), made.get_score(i)) for i in range(1, made.vocab_size())]


def _sample(chunks: Iterable[str]) -> list[str]:
    """SAMPLE chunks, each chunk as likely as any other (Vitter 1985, algorithm R); all of them where there are no more."""
    draw = random.Random(SEED)
    kept: list[str] = []
    for number, chunk in enumerate(chunks):
        if len(kept) < SAMPLE:
            kept.append(chunk)
        elif (place := draw.randrange(number + 1)) < SAMPLE:
            kept[place] = chunk
    return kept


def _explained(error: str, vocab: int, beside: int) -> str:
    """The trainer's complaint about its vocabulary in terms of ours, which has `beside` entries more."""
    if most := re.search(r"too high.*<= (\d+)", error):
        return f"vocab {vocab} is larger than this corpus allows: its pieces end at {int(most[1]) + beside} entries; ask for fewer or add text"
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        return f"vocab {vocab} is too small: with the bytes and special tokens, the characters of this corpus alone need {int(least[1]) + beside}"
    return f"sentencepiece cannot learn from this text: {error}"
