"""Train a byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in GPT-2) with Hugging Face `tokenizers`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from bessemer.core import artifact
from bessemer.tokenizer import chat

# Words, numbers of up to three digits, punctuation and runs of space, never across a class: the split Llama 3 made common.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SMALLEST = 256 + len(chat.SPECIAL)  # a vocabulary without a single merge
CHUNK = 4096  # characters: long texts cost the trainer memory, short ones calls


def train(texts: Iterable[str], vocab: int) -> Backend:
    """Learn merges until there are `vocab` entries, special tokens and the 256 bytes included.

    Equal texts give an equal tokenizer, byte for byte. ValueError where the texts do not hold that many distinct merges.
    """
    if vocab < SMALLEST:
        raise ValueError(f"vocab {vocab} is too small: 256 bytes and {len(chat.SPECIAL)} special tokens need {SMALLEST}")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(chat.SPECIAL), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator(_chunks(texts), trainer)
    if backend.get_vocab_size() < vocab:
        raise ValueError(
            f"vocab {vocab} is larger than this corpus allows: its merges end at {backend.get_vocab_size()} entries; ask for fewer or add text"
        )
    return backend


def save(backend: Backend, folder: Path) -> None:
    """Write the files that `transformers.AutoTokenizer` and `Tokenizer.load` read: tokenizer, special tokens, chat template."""
    with artifact.atomic(folder / "tokenizer.json") as temporary:
        temporary.write_text(backend.to_str(pretty=True), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": chat.END_OF_TEXT,
        "pad_token": chat.END_OF_TEXT,
        "unk_token": None,
        "additional_special_tokens": [chat.START_OF_TURN, chat.END_OF_TURN],
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
    with artifact.atomic(folder / "tokenizer_config.json") as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    with artifact.atomic(folder / "chat_template.jinja") as temporary:
        temporary.write_text(chat.TEMPLATE, encoding="utf-8")


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Pieces of about CHUNK characters, cut where a line ends so that no word is split."""
    for text in texts:
        start = 0
        while start < len(text):
            end = text.find("\n", start + CHUNK) + 1 or len(text)
            yield text[start:end]
            start = end
