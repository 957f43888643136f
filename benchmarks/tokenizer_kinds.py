"""Three kinds of tokenizer at equal vocabulary, trained on the same text and compared on text that none has read.

    python benchmarks/tokenizer_kinds.py [--data ../shared/data] [--docs ARTIFACT] [--vocab 4096 8192 16384] [--store FOLDER]

Texts of --data where it is there, and the documents of --docs (by default the quickstart's, where that was run), in five domains:
encyclopedia (WikiText-2), prose (Brown corpus), code documentation (--docs), Japanese (a novel) and the Universal Declaration of Human
Rights in all the languages of it whose articles are numbered so that they can be told apart. Of each domain every fourth document, of the
declaration every second article, is kept from training. A document is about 2000 characters of whole lines, or an article.

Prints the comparison as a Markdown table. The page, the plot and all numbers are in STORE/report.
"""

import argparse
import json
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from bessemer.core import artifact
from bessemer.core.stage import Stage
from bessemer.corpus import documents
from bessemer.stages import find
from bessemer.stages.tokenizer import TokenizerConfig
from bessemer.stages.tokenizer_report import TokenizerReportConfig

KINDS = ("bpe", "wordpiece", "unigram")
SCHEMA = documents.with_fields(documents.SCHEMA, language=documents.pa.string(), said=documents.pa.string())
LENGTH = 2000  # characters of a document
ARTICLES = range(2, 15)  # the first half of the declaration ends in the fifteenth


def cut(text: str) -> Iterator[str]:
    """Documents of whole lines."""
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        lines.append(line)
        if sum(map(len, lines)) >= LENGTH:
            yield "".join(lines)
            lines.clear()
    if lines:
        yield "".join(lines)


def zipped(path: Path, encoding: str = "utf-8") -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith("/"):
                yield name, archive.read(name).decode(encoding)


def articles(text: str) -> dict[int, str]:
    """The articles of a declaration by number: what stands between two short lines that hold one number more each."""
    found: dict[int, list[str]] = {}
    number = 0
    for line in text.splitlines():
        heading = re.search(r"\d+", line) if len(line) <= 30 else None
        if heading and int(heading[0]) in (number + 1, number + 2):
            number = int(heading[0])
            found[number] = []
        elif number:
            found[number].append(line)
    return {number: "\n".join(lines) for number, lines in found.items() if lines and number in ARTICLES}


def domains(data: Path, docs: Path | None) -> dict[str, list[documents.Row]]:
    """Documents of each domain, with `language` and, of the declaration, `said`: the number of the article."""
    texts: dict[str, tuple[str, Iterable[str]]] = {}
    if (folder := data / "text").is_dir():
        texts["encyclopedia"] = "eng", (part for name in ("valid.txt", "test.txt") for part in cut((folder / "wikitext-2" / name).read_text("utf-8")))
        texts["prose"] = "eng", (part for _, text in zipped(folder / "brown/brown_plain.zip", "latin-1") for part in cut(text))
        texts["japanese"] = "jpn", cut((folder / "sentencepiece-corpora/wagahaiwa_nekodearu.txt").read_text("utf-8"))
    if docs:
        texts["documentation"] = "eng", (part for text in documents.texts(docs) for part in cut(text))
    found = {
        domain: [{"id": f"{domain} {i}", "text": text, "language": language} for i, text in enumerate(parts)]
        for domain, (language, parts) in texts.items()
    }
    if folder.is_dir():
        declared = {name.removesuffix(".txt"): articles(text) for name, text in zipped(folder / "udhr/udhr_first_half.zip")}
        found["declaration"] = [
            {"id": f"{language} {number}", "text": text, "language": language, "said": str(number)}
            for language, own in declared.items()
            if len(own) >= 10
            for number, text in own.items()
        ]
    return found


def write(rows: dict[str, list[documents.Row]], store: Path) -> tuple[list[Path], list[Path]]:
    """Folders of documents to train on and to measure on, one a domain each."""
    folders: tuple[list[Path], list[Path]] = ([], [])
    for domain, own in rows.items():
        for kept, side in enumerate(("train", "test")):
            chosen = [row for i, row in enumerate(own) if (int(row["said"]) % 2 if "said" in row else i % 4 == 0) == kept]
            folder = store / side / domain
            documents.write(documents.shard(folder, 0), chosen, SCHEMA)
            folders[kept].append(folder)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--docs", type=Path, default=Path("artifacts/quickstart/dedup"))
    parser.add_argument("--vocab", type=int, nargs="*", default=[4096, 8192, 16384])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store", type=Path)
    args = parser.parse_args()
    store = args.store or Path(tempfile.mkdtemp(prefix="tokenizers-"))
    shutil.rmtree(store / "report", ignore_errors=True)
    train, test = write(domains(args.data, args.docs if args.docs.is_dir() else None), store)
    print("trained on", ", ".join(f"{folder.name} {documents.size(folder) / 1e6:.2f} MB" for folder in train))
    print("measured on", ", ".join(f"{folder.name} {documents.size(folder) / 1e6:.2f} MB" for folder in test))
    made = []
    for kind in args.kinds:
        for vocab in args.vocab:
            folder = store / f"{kind}-{vocab}"
            if not folder.is_dir():
                began = time.process_time()
                make(find("tokenizer"), {"documents": tuple(train)}, TokenizerConfig(kind=kind, vocab=vocab), folder)
                print(f"trained {folder.name} in {time.process_time() - began:.0f} CPU-s", flush=True)
            made.append(folder)
    cfg = TokenizerReportConfig(title="Three kinds of tokenizer", translation="said", reference="eng", rounds=args.rounds)
    make(find("tokenizer_report"), {"documents": tuple(test), "tokenizers": tuple(made)}, cfg, store / "report")
    table(json.loads((store / "report/report.json").read_text()), [folder.name for folder in test])
    print(store / "report/report.html")


def make(stage: Stage, inputs: artifact.Inputs, cfg: object, folder: Path) -> None:
    artifact.make(stage, inputs, cfg, folder)


def table(report: dict, names: list[str]) -> None:
    heads = ["bytes per token", "all tokens against the first", *(f"tokens per word, {name}" for name in names), "median parity", "byte tokens"]
    heads += ["dead", "Rényi", "numbers cut alike", "typing errors: growth", "changed", "exact"]
    print(f"| tokenizer | {' | '.join(heads)} |\n{'|---' * (len(heads) + 1)}|")
    for row in report["tokenizers"]:
        group = {(own["by"], own["group"]): own for own in row["groups"]}
        whole = group["all", "all"]
        parity = sorted(own["value"] for own in row["parity"].values())
        cells = [interval(whole["bytes_per_token"]), interval(row["against_first"])]
        cells += [interval(group["domain", name]["tokens_per_word"]) for name in names]
        cells += [f"{parity[len(parity) // 2]:.2f}" if parity else "-", f"{100 * whole['byte_share']['value']:.2f} %", f"{100 * row['dead']:.1f} %"]
        cells += [f"{row['renyi']:.3f}", f"{row['numbers']['consistent']:.3f}", interval(row["typos"]["all"]["growth"])]
        print(f"| {row['name']} | {' | '.join([*cells, interval(row['typos']['all']['changed']), str(row['exact']['value'])])} |")


def interval(estimate: dict) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


if __name__ == "__main__":
    main()
