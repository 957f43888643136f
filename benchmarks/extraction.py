"""Text out of real pages, beside other extractors: how much of the article, how little else, and how many pages a CPU second.

    python benchmarks/extraction.py [--data ../shared/data/web] [--docs FOLDER] [--peers PYTHON ...] [--rounds 3]

Two sets of pages with ground truth by people. article-extraction-benchmark (Zyte): the article's text; precision and recall over
4-gram shingles of words, averaged over pages, as its evaluate.py does. trafilatura's evaluation pages: segments that must and must not
come out. FOLDER is more pages (*.html, each of 20 kB or more, 60 of them), for speed alone. PYTHON is an interpreter that has some of
the peers; without any, two environments are made on first use. Systems take turns, each round in a fresh process.
"""

import argparse
import gzip
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import peers

Extract = Callable[[str], str]


def bessemer() -> Extract:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from bessemer.corpus.extract.html import text_of

    return lambda html: text_of(html).text


def trafilatura() -> Extract:
    from trafilatura import extract

    return lambda html: extract(html, include_comments=False) or ""


def resiliparse() -> Extract:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    return lambda html: extract_plain_text(HTMLTree.parse(html), main_content=True)


def readability() -> Extract:
    from lxml.html import fromstring
    from readability import Document

    return lambda html: "\n".join(fromstring(Document(html).summary()).itertext())


def justext() -> Extract:
    import justext as peer

    lists = {name: peer.get_stoplist(name) for name in ("English", "German")}

    def extract(html: str) -> str:
        german = html.count(" und ") > html.count(" and ")
        found = peer.justext(html.encode(), lists["German" if german else "English"])
        return "\n".join(p.text for p in found if not p.is_boilerplate)

    return extract


def html_text() -> Extract:
    from html_text import extract_text

    return lambda html: extract_text(html)


SYSTEMS = {"bessemer": bessemer, "trafilatura": trafilatura, "resiliparse": resiliparse}
SYSTEMS |= {"readability-lxml": readability, "justext": justext, "html-text": html_text}


def work(name: str, file: Path) -> None:
    """Run one system over all pages; its texts and the CPU seconds of each set go to standard output."""
    extract, sets = SYSTEMS[name](), json.loads(file.read_text())
    texts: dict[str, list[str]] = {}
    seconds = {}
    for kind, pages in sets.items():
        start = time.process_time()
        texts[kind] = []
        for html in pages:
            try:
                texts[kind].append(extract(html))
            except Exception:  # a page that a system fails on has no text
                texts[kind].append("")
        seconds[kind] = time.process_time() - start
    print(json.dumps({"texts": texts, "seconds": seconds}))


def known() -> dict[str, str]:
    """The systems of this interpreter and their versions."""
    found = {}
    for name in SYSTEMS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def shingles(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[i : i + 4]) for i in range(len(words) - 3))


def article_scores(wanted: list[str], texts: list[str]) -> tuple[float, float, float]:
    """(F1, precision, recall), the last two averaged over the pages on which they are defined."""
    precisions, recalls = [], []
    for want, text in zip(wanted, texts, strict=True):
        true, found = shingles(want), shingles(text)
        both = (true & found).total()
        if found:
            precisions.append(both / found.total())
        if true:
            recalls.append(both / true.total())
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 2 * precision * recall / (precision + recall), precision, recall


def segment_scores(segments: list[tuple[list[str], list[str]]], texts: list[str]) -> tuple[float, float, float]:
    """(F-score, precision, recall) of segments that must and must not come out, white space aside."""
    true = false = missed = 0
    for (with_, without), text in zip(segments, texts, strict=True):
        text = " ".join(text.split())
        found = sum(" ".join(segment.split()) in text for segment in with_)
        true, missed = true + found, missed + len(with_) - found
        false += sum(" ".join(segment.split()) in text for segment in without)
    precision, recall = true / (true + false), true / (true + missed)
    return 2 * precision * recall / (precision + recall), precision, recall


def rows_of(folder: Path, name: str) -> list[dict]:
    with gzip.open(folder / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/web"))
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--peers", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        return work(args.worker[0], Path(args.worker[1])) if args.worker else print(json.dumps(known()))

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from bessemer.corpus.extract.html import decode

    articles = rows_of(args.data / "article-extraction", "ground_truth.jsonl.gz")
    segments = rows_of(args.data / "trafilatura-eval", "segments.jsonl.gz")
    sets = {
        kind: [decode(gzip.decompress((args.data / folder / row["file"]).read_bytes())) for row in rows]
        for kind, folder, rows in (("articles", "article-extraction", articles), ("segments", "trafilatura-eval", segments))
    }
    if args.docs:
        files = [file for file in sorted(args.docs.rglob("*.html")) if file.stat().st_size >= 20_000]
        sets["docs"] = [decode(file.read_bytes()) for file in files[:: max(1, len(files) // 60)][:60]]
    systems = [(sys.executable, "bessemer", "")]
    for python in args.peers or [str(peers.python(name)) for name in ("old-extractors", "extractors")]:
        found = json.loads(subprocess.check_output([python, __file__, "--worker"]))
        systems += [(python, name, number) for name, number in found.items() if name != "bessemer" and (name, number) not in [s[1:] for s in systems]]
    results: dict[tuple[str, str, str], list[dict]] = {system: [] for system in systems}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(sets, file)
        file.flush()
        for _ in range(args.rounds):
            for system in systems:
                results[system].append(json.loads(subprocess.check_output([system[0], __file__, "--worker", system[1], file.name])))
    print("pages:", ", ".join(f"{len(pages)} {kind} of {sum(map(len, pages)) / len(pages) / 1000:.0f} kB" for kind, pages in sets.items()))
    print(
        "| extractor | articles: F1 | precision | recall | segments: F | precision | recall | " + " | ".join(f"{kind}/CPU s" for kind in sets) + " |"
    )
    print("|---|" + "---:|" * (6 + len(sets)))
    for (_, name, number), rounds in results.items():
        texts = rounds[0]["texts"]
        scores = list(article_scores([row["articleBody"] for row in articles], texts["articles"]))
        scores += segment_scores([(row["with"], row["without"]) for row in segments], texts["segments"])
        speeds = [sorted(len(pages) / run["seconds"][kind] for run in rounds) for kind, pages in sets.items()]
        cells = [f"{score:.3f}" for score in scores] + [f"{median(speed):.0f} ({speed[0]:.0f}-{speed[-1]:.0f})" for speed in speeds]
        print(f"| {name} {number} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
