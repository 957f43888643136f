"""Train a byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in GPT-2) with Hugging Face `tokenizers`."""

from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from bessemer.tokenizer import chat, split
from bessemer.tokenizer.files import save as save  # beside `train` for its callers

CHUNK = 4096  # characters: long texts cost the trainer memory, short ones calls


def smallest(special: Sequence[str] = chat.SPECIAL) -> int:
    """A vocabulary without a single merge."""
    return 256 + len(special)


def train(texts: Iterable[str], vocab: int, cuts: split.Name = "llama-3", special: Sequence[str] = chat.SPECIAL) -> Backend:
    """Learn merges until there are `vocab` entries: special tokens, the 256 bytes, merges in the order they were learnt.

    Equal texts give an equal tokenizer, byte for byte. ValueError where the texts do not hold that many distinct merges.
    """
    if vocab < smallest(special):
        raise ValueError(f"vocab {vocab} is too small: 256 bytes and {len(special)} special tokens need {smallest(special)}")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = split.pre_tokenizer(cuts)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(special), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator(chunks(texts), trainer)
    if backend.get_vocab_size() < vocab:
        raise ValueError(
            f"vocab {vocab} is larger than this corpus allows: its merges end at {backend.get_vocab_size()} entries; ask for fewer or add text"
        )
    return backend


def chunks(texts: Iterable[str]) -> Iterator[str]:
    """Pieces of about CHUNK characters, cut where a line ends so that no word is split."""
    for text in texts:
        start = 0
        while start < len(text):
            end = text.find("\n", start + CHUNK) + 1 or len(text)
            yield text[start:end]
            start = end
