"""Which documents a training step read, and which steps read a document: looked up from the manifest, exact, with no log.

A source is a pure function of the step, and shuffles are permutations that run backwards as well. How many processes trained, and how
often they were killed, plays no part. Pretraining reads documents, fine-tuning on conversations reads conversations; a checkpoint that
came from them by other stages is looked up in the nearest of the two.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.core import artifact, config
from bessemer.data import chat, mixture, order
from bessemer.data import tokens as token_file
from bessemer.data.mixture import MixConfig, Mixture
from bessemer.data.pretraining import spans
from bessemer.data.pretraining.spans import SpanConfig
from bessemer.data.tokens import TokenFile
from bessemer.model import weights
from bessemer.tokenizer.tokenizer import Tokenizer

Place = tuple[int, int]  # of a document: the number of its domain, and its own in there


@dataclass(frozen=True)
class Part:
    """What a row reads of a document."""

    step: int  # from 0, as a source counts
    row: int  # of the step
    domain: str
    document: str
    tokens: int


class Documents:
    """What pretraining read: windows of token files. `spare`: tokenizers with a cls token put it before each document of a masked row, whose
    last tokens make room."""

    def __init__(self, source: Mixture, names: Sequence[str], objective: str = "next", spare: bool = False, held_out: Sequence[TokenFile] = ()):
        self.source, self.names, self.objective, self.spare, self.held_out = source, names, objective, spare, held_out
        self.batch = source.batch
        self.steps = sum(phase.total for phase in source.phases) // source.batch

    def find(self, name: str) -> dict[str, list[Place]]:
        """Documents of this id, or with ids that begin so: where each stands, in every domain and with all its copies."""
        found: dict[str, list[Place]] = {}
        for domain, file in enumerate(self.source.files):
            for document, numbers in token_file.numbers_of(file.documents, name).items() if file else ():
                found.setdefault(document, []).extend((domain, number) for number in numbers)
        return {name: found[name]} if name in found else found

    def unread(self, name: str) -> bool:
        """Whether a document of this id was kept for validation."""
        return any(name in token_file.numbers_of(file.documents, name) for file in self.held_out)

    def read_at(self, step: int) -> Iterator[Part]:
        """What a step reads, row by row."""
        for row, (domain, window) in enumerate(zip(*(column.tolist() for column in self.source.rows(step)), strict=True)):
            file = self.source.files[domain]
            assert file, "a domain without a row is never drawn"
            begin, end = self._span(file, window)
            for number in range(file.document_at(begin), file.document_at(end - 1) + 1):
                yield self._part(step, row, (domain, number), begin, end)

    def reading(self, places: Sequence[Place]) -> list[Part]:
        """Every row of the training that reads one of these documents, in order."""
        found = []
        for domain, number in places:
            file, context = self.source.files[domain], self.source.context
            assert file, "found in it"
            first, last = (int(file.offsets[number + further]) for further in (0, 1))
            # The last target of a window is the first token of the next: so one that ends where the document begins reads of it, too.
            low, high = max(0, -(-first // context) - 1), min(int(self.source.sizes[domain]) - 1, (last - 1) // context)
            spans_of = {window: self._span(file, window) for window in range(low, high + 1)}
            own = np.array([window for window, (begin, end) in spans_of.items() if begin < last and first < end], dtype=np.int64)
            for row, window in self.source.rows_of(domain, own):
                found.append(self._part(*divmod(row, self.batch), (domain, number), *spans_of[window]))
        return sorted(found, key=lambda part: (part.step, part.row))

    def _span(self, file: TokenFile, window: int) -> tuple[int, int]:
        """The tokens that a row of this window reads, its last target among them if it has one."""
        context = self.source.context
        begin = window * context
        if self.objective in ("next", "prefix"):
            return begin, begin + context + 1
        if self.objective == "masked" and self.spare:
            low, high = np.searchsorted(file.offsets, (begin + 1, begin + context))
            begun = 1 + np.searchsorted(file.offsets[low:high] - begin, np.arange(context), side="right")  # documents, up to each token
            return begin, begin + int((np.arange(context) + begun < context).sum())
        return begin, begin + context

    def _part(self, step: int, row: int, place: Place, begin: int, end: int) -> Part:
        domain, number = place
        file = self.source.files[domain]
        assert file
        tokens = min(int(file.offsets[number + 1]), end) - max(int(file.offsets[number]), begin)
        return Part(step, row, self.names[domain], file.documents[number], tokens)


class Conversations:
    """What fine-tuning on conversations read: rows into which several were packed."""

    def __init__(self, names: Sequence[str], lengths: Sequence[int], context: int, steps: int, batch: int, seed: int):
        """`lengths`: tokens of each; those that do not fit a row were left out."""
        self.names, self.lengths, self.steps, self.batch, self.seed = names, lengths, steps, batch, seed
        kept = [number for number, length in enumerate(lengths) if length <= context + 1]
        self.rows = [[kept[item] for item in row] for row in chat.pack([lengths[number] - 1 for number in kept], context)]
        self.row_of = {number: row for row, numbers in enumerate(self.rows) for number in numbers}

    def find(self, name: str) -> dict[str, list[Place]]:
        """As of documents."""
        return {one: [(0, n) for n in numbers] for one, numbers in token_file.numbers_of(self.names, name).items()}

    def unread(self, name: str) -> bool:
        """As of documents; those for validation are in a file of their own."""
        return False

    def read_at(self, step: int) -> Iterator[Part]:
        """As of documents."""
        for row, number in enumerate(order.rows(step, self.batch, len(self.rows), self.seed).tolist()):
            for conversation in self.rows[number]:
                yield self._part(step, row, conversation)

    def reading(self, places: Sequence[Place]) -> list[Part]:
        """As of documents."""
        found = []
        read, count = self.steps * self.batch, len(self.rows)
        for number in (number for _, number in places if number in self.row_of):
            for epoch in range(-(-read // count)):
                [place] = order.places_of(np.array([self.row_of[number]]), count, epoch, self.seed).tolist()
                if place < read:
                    found.append(self._part(place // self.batch, place % self.batch, number))
        return sorted(found, key=lambda part: (part.step, part.row))

    def _part(self, step: int, row: int, number: int) -> Part:
        return Part(step, row, "conversations", self.names[number], self.lengths[number])


Reader = Documents | Conversations


def opened(checkpoint: Path) -> tuple[str, Reader]:
    """The training behind a checkpoint, finished or still running, and its name.

    ValueError where no stage of it can be looked up; FileNotFoundError where what it read is gone.
    """
    manifests = _manifests(checkpoint)
    for manifest in manifests:
        if manifest["stage"] in READERS:
            return f"{manifest['name']}-{manifest['key']}", READERS[manifest["stage"]](checkpoint, manifest)
    raise ValueError(f"{checkpoint} was made by {manifests[0]['stage']}: looked up is what {' and '.join(READERS)} read")


def newest(store: Path) -> Path:
    """The training in a store that was worked on last. FileNotFoundError where there is none."""
    found = [path.parent for path in store.glob("*/manifest.json")] + [path.parent.parent for path in store.glob(f"*.part/{artifact.BEGAN}")]
    for folder in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        if _manifests(folder)[0]["stage"] in READERS:
            return folder
    raise FileNotFoundError(f"{store} holds no training ({' or '.join(READERS)}): name one with --checkpoint")


def _manifests(checkpoint: Path) -> list[dict[str, Any]]:
    """The manifest and those of all ancestors, nearest first; of an artifact that is not finished, what it began with."""
    for folder in (checkpoint, checkpoint.with_name(checkpoint.name + ".part")):
        if artifact.read_manifest(folder) is None and (folder / artifact.BEGAN).is_file():
            begun = json.loads((folder / artifact.BEGAN).read_text(encoding="utf-8"))
            return [begun, *begun["ancestors"]]
    return artifact.ancestors(checkpoint)


def _pretraining(checkpoint: Path, manifest: dict[str, Any]) -> Documents:
    cfg = manifest["config"]
    if cfg["objective"] == "masked+pair":
        raise ValueError("objective = masked+pair draws the second text of each pair from anywhere: there is no way back from a document to steps")
    folder, words = _input(checkpoint, manifest, "tokens"), Tokenizer.load(_input(checkpoint, manifest, "tokenizer"))
    context, steps, batch = cfg["context"], cfg["steps"], cfg["batch"]
    length = spans.lengths(context, config.parse(SpanConfig, cfg["span"], "span"))[0] if cfg["objective"] == "spans" else context
    sizes = token_file.sizes(folder, "train", length)
    phases = mixture.phases(config.parse(MixConfig, cfg["mix"], "mix"), sizes, steps, batch, length, cfg["decay"])
    source = Mixture(token_file.load_all(folder, "train", words.vocab), sizes, phases, length, batch, cfg["seed"])
    unseen = [name for name in sizes if (folder / name / "val.bin").stat().st_size]
    held_out = [token_file.load(folder / name, "val", words.vocab) for name in unseen]
    return Documents(source, list(sizes), cfg["objective"], words.cls is not None, held_out)


def _conversations(checkpoint: Path, manifest: dict[str, Any]) -> Conversations:
    cfg, base = manifest["config"], _input(checkpoint, manifest, "base")
    rows, words = chat.read(_input(checkpoint, manifest, "dialogues") / "train.jsonl"), Tokenizer.load(base)
    names = [str(row.get("id", number)) for number, row in enumerate(rows)]
    lengths = [len(words.chat(row["messages"])[0]) for row in rows]
    return Conversations(names, lengths, weights.load_config(base).context, cfg["steps"], cfg["batch"], cfg["seed"])


READERS: dict[str, Callable[[Path, dict[str, Any]], Reader]] = {"sft": _conversations, "pretrain": _pretraining}


def _input(checkpoint: Path, manifest: dict[str, Any], name: str) -> Path:
    """Where an input lies: where it was, or beside the checkpoint. It must be what was read."""
    [recorded] = manifest["inputs"][name]
    path = Path(recorded["path"])
    places = [place for place in (path, checkpoint.resolve().parent / path.name) if place.exists()]
    for place in places:
        if recorded["digest"] in (None, artifact.digest(place)):
            return place
    where = f"{manifest['name']}-{manifest['key']} read {path} as {name}"
    if places:
        raise ValueError(f"{where}, which has changed since: what was in it at a step cannot be told")
    raise FileNotFoundError(f"{where}, which is not there any more, nor beside {checkpoint}")


def seen(checkpoint: Path, document: str = "", step: int = -1) -> None:
    """Which steps read DOCUMENT (an id, or how it begins), or what STEP read (counted from 1, as in metrics.jsonl)."""
    if bool(document) == (step != -1):
        raise ValueError("name a document or a step, one of them")
    name, reader = opened(checkpoint)
    for line in _steps_of(name, reader, document) if document else _documents_of(name, reader, step):
        print(line)


def _documents_of(name: str, reader: Reader, step: int) -> Iterator[str]:
    if not 1 <= step <= reader.steps:
        raise ValueError(f"step {step} is none of {name}, which has 1 to {reader.steps}")
    yield f"{name}: step {step} of {reader.steps:,}, {reader.batch} rows"
    for row, parts in groupby(reader.read_at(step - 1), key=lambda part: part.row):
        here = list(parts)
        yield f"  row {row}  {here[0].domain}  " + ", ".join(f"{part.document} ({part.tokens} tokens)" for part in here)


def _steps_of(name: str, reader: Reader, document: str) -> Iterator[str]:
    found = reader.find(document)
    if not found and reader.unread(document):
        yield f"{name}: {document} was held out for validation: no step read it"
        return
    if len(found) != 1:
        said = f"several ids begin with {document} ({', '.join(found)}): write more of it" if found else f"there is no {document} in what it read"
        raise ValueError(f"{name}: {said}")
    [(document, places)] = found.items()
    parts = reader.reading(places)
    copies = f", which is there {len(places)} times" if len(places) > 1 else ""
    yield f"{name}: {document}{copies}"
    for step, rows in groupby(parts, key=lambda part: part.step):
        yield f"  step {step + 1}  " + ", ".join(f"row {part.row} {part.domain} ({part.tokens} tokens)" for part in rows)
    steps = sorted({part.step + 1 for part in parts})
    yield f"read by {len(steps):,} of {reader.steps:,} steps{': ' * bool(steps)}{_ranges(steps)}"


def _ranges(steps: Sequence[int]) -> str:
    """3, 5-8, 12 of 3, 5, 6, 7, 8, 12."""
    runs = [[step for _, step in run] for _, run in groupby(enumerate(steps), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
