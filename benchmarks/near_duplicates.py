"""Near-duplicates that were planted: how many are found, what else is removed, how fast and in how much memory.

    python benchmarks/near_duplicates.py [--data ../shared/data] [--html FOLDER ...] [--documents 1000 4000 16000] [--datatrove [PYTHON]]

Real pages (brown, webtext and wikitext of --data where it is there; HTML folders, by default Debian's documentation as in pages.py) are
cut into documents of 100 to 1500 words. A third of the documents are edited copies of others: words replaced, deleted and inserted, a
header and a footer added, the end cut off, lines reordered, case, punctuation and white space changed, numbers changed.

Recall is the share of planted pairs of which one is removed, by the pair's true Jaccard similarity in plain word 5-grams (lower case,
nothing else normalised). Precision at s is the share of removed documents to which another document of the corpus, planted or not, is
at least that similar: of all that share one of a sample of 5-grams.

With --datatrove its four stages of MinHash deduplication run on the same files at their defaults (14 bands of 8 rows, word 5-grams).
CPU seconds and memory are of the whole process tree with imports, looked at 20 times a second; one worker each.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

SHARD = 500  # documents
EDITS = ("words", "words", "words", "frame", "end", "order", "surface", "numbers")
WORD = re.compile(r"\w+")


def pages(data: Path, html: list[Path]) -> Iterator[str]:
    """Texts of real pages."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    for name in ("text/brown/brown_plain.zip", "text/webtext/webtext.zip"):
        if (data / name).exists():
            with zipfile.ZipFile(data / name) as archive:
                yield from (archive.read(entry).decode("latin-1") for entry in sorted(archive.namelist()) if not entry.endswith("/"))
    for file in sorted((data / "text/wikitext-2").glob("*.txt")):
        yield file.read_text(encoding="utf-8")
    for file in sorted(file for folder in html for file in folder.rglob("*.html") if file.is_file()):
        raw = file.read_bytes()
        yield extract_plain_text(bytes_to_str(raw, detect_encoding(raw)), main_content=True)


def cut(texts: Iterator[str], rng: random.Random) -> list[str]:
    """Documents of whole lines, 100 to 1500 words each."""
    found = []
    for text in texts:
        lines: list[str] = []
        size, wanted = 0, rng.randrange(100, 1500)
        for line in text.split("\n"):
            lines.append(line)
            size += len(line.split())
            if size >= wanted:
                found.append("\n".join(lines))
                lines, size, wanted = [], 0, rng.randrange(100, 1500)
        if size >= 100:
            found.append("\n".join(lines))
    rng.shuffle(found)
    return found


def edited(text: str, edit: str, vocabulary: list[str], rng: random.Random) -> str:
    """A copy of a page as it turns up elsewhere."""
    if edit == "words":
        rate, lines = rng.uniform(0.002, 0.08), []
        for line in text.split("\n"):
            words = []
            for word in line.split(" "):
                change = rng.choice(("replace", "delete", "insert")) if rng.random() < rate else ""
                words += {"": [word], "replace": [rng.choice(vocabulary)], "delete": [], "insert": [word, rng.choice(vocabulary)]}[change]
            lines.append(" ".join(words))
        return "\n".join(lines)
    if edit == "frame":
        head, foot = (" ".join(rng.choices(vocabulary, k=rng.randrange(5, 80))) for _ in range(2))
        return f"{head}\n\n{text}\n\n{foot}"
    if edit == "end":
        return text[: int(len(text) * rng.uniform(0.6, 0.98))]
    if edit == "order":
        lines = text.split("\n")
        for _ in range(rng.randrange(1, 6)):
            a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[a], lines[b] = lines[b], lines[a]
        return "\n".join(lines)
    if edit == "surface":
        text = re.sub(r"[,;:]", lambda match: match[0] if rng.random() < 0.5 else "", re.sub(r"[ \t]+", "  ", text))
        return text.upper() if rng.random() < 0.3 else text
    day = f"{rng.randrange(1, 29)}.{rng.randrange(1, 13)}.20{rng.randrange(10, 26)}"
    return f"Last changed on {day}\n" + re.sub(r"\d+", lambda match: str(rng.randrange(10 ** len(match[0][:9]))), text)


def plant(base: list[str], documents: int, rng: random.Random) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """(documents by id, {id of a copy: (id of its page, edit)})."""
    originals = base[: documents * 2 // 3]
    vocabulary = sorted({word for text in originals[:200] for word in text.split()})
    names = [f"{rng.getrandbits(64):016x}" for _ in range(documents)]
    texts = dict(zip(names, originals, strict=False))
    planted = {}
    for name, source in zip(names[len(texts) :], rng.sample(sorted(texts), documents - len(texts)), strict=True):
        edit = rng.choice(EDITS)
        planted[name] = (source, edit)
        texts[name] = edited(texts[source], edit, vocabulary, rng)
    return dict(sorted(texts.items())), planted


def grams(text: str) -> frozenset[int]:
    """Hashes of the plain word 5-grams of a text."""
    import xxhash

    words = WORD.findall(text.lower())
    return frozenset(xxhash.xxh3_64_intdigest(" ".join(words[i : i + 5]).encode()) for i in range(max(1, len(words) - 4)))


def similarity(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)


class Truth:
    """The true similarities, from every pair that shares one of a sample of 5-grams (1 in 16: 10 of a document of 160 words)."""

    def __init__(self, texts: dict[str, str], planted: dict[str, tuple[str, str]]):
        self.sets = {name: grams(text) for name, text in texts.items()}
        self.planted = {name: similarity(self.sets[name], self.sets[source]) for name, (source, _) in planted.items()}
        self.sources, self.edits = {n: s for n, (s, _) in planted.items()}, {n: e for n, (_, e) in planted.items()}
        self.index: dict[int, list[str]] = defaultdict(list)
        for name, found in self.sets.items():
            for gram in self.sample(found):
                self.index[gram].append(name)
        self.best: dict[str, float] = {}

    @staticmethod
    def sample(found: frozenset[int]) -> list[int]:
        return [gram for gram in found if gram % 16 == 7]

    def nearest(self, name: str) -> float:
        """The similarity of the most similar other document."""
        if name not in self.best:
            others = {other for gram in self.sample(self.sets[name]) for other in self.index[gram][:200]} - {name}
            others |= {copy for copy, source in self.sources.items() if source == name} | ({self.sources[name]} if name in self.sources else set())
            self.best[name] = max((similarity(self.sets[name], self.sets[other]) for other in others), default=0.0)
        return self.best[name]

    def row(self, kept: set[str]) -> list[str]:
        gone = [name for name in self.sets if name not in kept]
        found = {name: not (name in kept and self.sources[name] in kept) for name in self.planted}

        def recall(low: float, high: float = 2.0) -> str:
            some = [found[name] for name, s in self.planted.items() if low <= s < high]
            return f"{sum(some) / max(1, len(some)):.4f}"

        precision = [f"{sum(self.nearest(name) >= least for name in gone) / max(1, len(gone)):.4f}" for least in (0.8, 0.7, 0.6, 0.5)]
        return [recall(0.8), recall(0), recall(0.7, 0.8), recall(0.6, 0.7), recall(0.5, 0.6), *precision, str(len(gone))]


def ours(source: Path, out: Path, min_jaccard: float) -> None:
    from bessemer.corpus import documents
    from bessemer.corpus.dedup.near import DedupConfig
    from bessemer.stages.dedup import dedup

    dedup(source, out=out, cfg=DedupConfig(min_jaccard=min_jaccard, workers=1, lines=False))
    (out / "kept.json").write_text(json.dumps([row["id"] for row in documents.read(out, ["id"])]))


def datatrove(source: Path, out: Path) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import JsonlWriter

    tasks, cfg = len(list(source.glob("*.parquet"))), MinhashConfig()
    signatures, buckets, removed = (str(out / name) for name in ("signatures", "buckets", "removed"))
    reader = ParquetReader(str(source))
    stages = [
        ([reader, MinhashDedupSignature(signatures, config=cfg)], tasks),
        ([MinhashDedupBuckets(signatures, buckets, config=cfg)], cfg.num_buckets),
        ([MinhashDedupCluster(buckets, removed, config=cfg)], 1),
        ([reader, MinhashDedupFilter(removed), JsonlWriter(str(out / "kept"), compression=None)], tasks),
    ]
    for number, (pipeline, count) in enumerate(stages):
        LocalPipelineExecutor(pipeline, tasks=count, workers=1, logging_dir=str(out / f"logs{number}")).run()
    kept = [json.loads(line)["id"] for file in sorted((out / "kept").glob("*.jsonl")) for line in file.read_text().split("\n") if line]
    (out / "kept.json").write_text(json.dumps(kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--html", type=Path, nargs="*")
    parser.add_argument("--documents", type=int, nargs="*", default=[1000, 4000, 16000])
    parser.add_argument("--min-jaccard", type=float, nargs="*", default=[0.8, 0.65])
    parser.add_argument("--datatrove", nargs="?", const="", help="run datatrove too; by this interpreter, or in an environment made for it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        name, source, out, *rest = args.run
        return ours(Path(source), Path(out), float(rest[0])) if name == "ours" else datatrove(Path(source), Path(out))
    import corpus
    import pages as debian
    import peers
    import pyarrow as pa
    import pyarrow.parquet as pq

    systems = [(f"bessemer, {least}", sys.executable, ["ours", str(least)]) for least in args.min_jaccard]
    if args.datatrove is not None:
        systems.append(("datatrove", args.datatrove or str(peers.python("datatrove")), ["datatrove"]))
    log = Path(tempfile.gettempdir()) / "near_duplicates.log"
    base = cut(pages(args.data, args.html or [debian.folder()]), random.Random(args.seed))
    head = "recall J >= 0.8 | all | 0.7-0.8 | 0.6-0.7 | 0.5-0.6 | precision 0.8 | 0.7 | 0.6 | 0.5 | removed | documents per CPU-s | MB"
    print(f"| documents | system | {head} |\n{'|---' * 14}|")
    for documents in args.documents:
        if documents * 2 // 3 > len(base):
            sys.exit(f"{documents} documents need {documents * 2 // 3} pages, there are {len(base)}: add --html folders")
        texts, planted = plant(base, documents, random.Random(args.seed))
        truth, names = Truth(texts, planted), list(texts)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "in"
            source.mkdir()
            for index, begin in enumerate(range(0, documents, SHARD)):
                rows = [{"id": name, "text": texts[name]} for name in names[begin : begin + SHARD]]
                pq.write_table(pa.Table.from_pylist(rows), source / f"part-{index:05d}.parquet", compression="zstd")
            for system, python, (name, *rest) in systems:
                out = Path(folder) / system
                out.mkdir()
                cost = corpus.measured([python, __file__, "--run", name, str(source), str(out), *rest], log)
                kept = set(json.loads((out / "kept.json").read_text()))
                row = [str(documents), system, *truth.row(kept), f"{documents / cost.cpu:.0f}", f"{cost.peak / 1e6:.0f}"]
                print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
