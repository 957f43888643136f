"""The filters against datatrove's on identical text: share of documents on which they decide alike, and documents per CPU second.

    python benchmarks/filters.py --peer /path/to/python-with-datatrove [--data ../shared/data] [--pages FOLDER ...]

The peer's interpreter needs datatrove and spacy. Documents are the texts and pages found under --data (web/*/html, web/cc-head, text/brown,
text/webtext, text/wikitext-2) and the *.html files under each --pages, with and without what stands around the main content, and noisy variants of
them. Both sides go through the same batches by turns in one process each, so that a busy machine slows both.
"""

import argparse
import gzip
import json
import random
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from bessemer.corpus.filters.page import Page
from bessemer.corpus.filters.rules import FilterConfig, bounds_of, broken
from bessemer.corpus.filters.table import Table

SETS = {
    "Gopher quality": FilterConfig(rules=("gopher_quality",)),
    "Gopher repetition": FilterConfig(rules=("gopher_repetition",)),
    "C4": FilterConfig(rules=("c4",)),
    "FineWeb": FilterConfig(rules=("fineweb",)),
    "preset web": FilterConfig(preset="web"),
}
LONGEST = 60_000  # characters of a document: the peer needs seconds for more

PEER = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
import datatrove, spacy
from importlib.metadata import version
single = [[GopherQualityFilter()], [GopherRepetitionFilter()], [C4QualityFilter()], [FineWebQualityFilter()]]
sets = single + [[GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter()]]
def passes(filters, text):
    document = Document(text=text, id="0")
    for each in filters:
        if each.filter(document) is not True:
            return False
    return True
for each in sets:
    passes(each, "One. Two.")  # loads spaCy
print(f"datatrove {version('datatrove')}, spacy {version('spacy')}", flush=True)
for line in sys.stdin:
    texts, found = json.loads(line), []
    for each in sets:
        start = time.process_time()
        decided = [passes(each, text) for text in texts]
        found.append([decided, time.process_time() - start])
    print(json.dumps(found), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pages", type=Path, nargs="*", default=[])
    parser.add_argument("--documents", type=int, default=3000)
    arguments = parser.parse_args()
    texts = [text[:LONGEST] for text in [*data_texts(arguments.data), *page_texts(arguments.pages)] if text.strip()]
    texts = [text.encode("utf-8", "replace").decode() for text in [*texts, *noisy(texts)]]
    random.Random(0).shuffle(texts)
    texts = texts[: arguments.documents]
    print(f"{len(texts)} documents, {sum(map(len, texts)) / 1e6:.1f} million characters")
    compare(texts, arguments.peer)


def data_texts(data: Path) -> Iterator[str]:
    for path in sorted(data.glob("web/*/html/*.gz")):
        yield from both(gzip.decompress(path.read_bytes()))
    for path in sorted(data.glob("web/cc-head/*.jsonl.gz")):
        yield from (json.loads(line)["text"] for line in gzip.decompress(path.read_bytes()).splitlines())
    for path in (data / "text/brown/brown_plain.zip", data / "text/webtext/webtext.zip"):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                lines = archive.read(name).decode("utf-8", "replace").split("\n")
                yield from ("\n".join(lines[at : at + 60]) for at in range(0, min(len(lines), 3000), 60))
    for path in sorted(data.glob("text/wikitext-2/*.txt")):
        yield from path.read_text(encoding="utf-8").split("\n = ")


def page_texts(folders: list[Path]) -> Iterator[str]:
    for folder in folders:
        paths = sorted(path for path in folder.rglob("*.html") if path.is_file())
        for path in random.Random(0).sample(paths, min(400, len(paths))):
            yield from both(path.read_bytes())


def both(page: bytes) -> Iterator[str]:
    """The main content of a page, and all its text with menus and lists."""
    text = bytes_to_str(page, detect_encoding(page))
    for main_content in (True, False):
        yield extract_plain_text(text, main_content=main_content, preserve_formatting=True)


def noisy(texts: list[str]) -> Iterator[str]:
    """One in ten again: as a list, a menu, teasers, with repeated lines, repeated words, shuffled words."""
    dice = random.Random(0)
    for text in dice.sample(texts, len(texts) // 10):
        lines = [line for line in text.split("\n") if line.strip()]
        words = text.split()
        yield dice.choice(
            [
                "\n".join(f"• {line[:40]}" for line in lines),
                "\n".join(" ".join(line.split()[:3]) for line in lines),
                "\n".join(line[:60] + dice.choice(["...", "…", ""]) for line in lines),
                "\n".join(line for line in lines for _ in range(dice.choice([1, 1, 1, 2]))),
                " ".join(words + words[:12] * dice.randrange(1, 20)),
                " ".join(dice.sample(words, min(len(words), 400))),
            ]
        )


def compare(texts: list[str], peer: str) -> None:
    tables = [Table() for _ in SETS]
    same, theirs, ours, kept = ([0.0] * len(SETS) for _ in range(4))
    with subprocess.Popen([peer, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        print(process.stdout.readline().strip())
        for begin in range(0, len(texts), 100):
            batch = texts[begin : begin + 100]
            process.stdin.write(json.dumps(batch) + "\n")
            process.stdin.flush()
            answers = json.loads(process.stdout.readline())
            for k, cfg in enumerate(SETS.values()):
                start, bounds = time.process_time(), bounds_of(cfg)
                decided = [next(broken(Page(text, tables[k]), bounds), None) is None for text in batch]
                ours[k] += time.process_time() - start
                theirs[k] += answers[k][1]
                kept[k] += sum(decided)
                same[k] += sum(mine == other for mine, other in zip(decided, answers[k][0], strict=True))
        process.stdin.close()
    print("| filter | kept | same decision | datatrove, documents per CPU second | Bessemer | ratio |\n|---|---|---|---|---|---|")
    n = len(texts)
    for k, name in enumerate(SETS):
        print(f"| {name} | {kept[k] / n:.1%} | {same[k] / n:.4f} | {n / theirs[k]:.0f} | {n / ours[k]:.0f} | {theirs[k] / ours[k]:.0f} |")
    print(f"| the four one by one | | | {n / sum(theirs[:4]):.0f} | {n / sum(ours[:4]):.0f} | {sum(theirs[:4]) / sum(ours[:4]):.0f} |")


if __name__ == "__main__":
    main()
