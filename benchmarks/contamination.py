"""Decontamination, measured: evaluation items planted in real text in six ways; recall, precision, documents per CPU second.

    python benchmarks/contamination.py --data ../shared/data

Half of the items of GSM8K (test), MMLU (val), AGIEval and BBH are planted, one a document, in the Brown corpus and WikiText-2 cut into
documents of 5 KB; the other half, and the documents without a plant, say what is found by mistake. What else real text shares with the
benchmarks is printed to be judged by eye. The naive reference is a set of tuples of words, the same normal form, all in Python. The peer
is datatrove's filter (its own normal form and tokenizer): name the Python that has it with --peer.
"""

import argparse
import json
import random
import re
import subprocess
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

from bessemer.corpus import documents as docs
from bessemer.corpus.contamination import index, items, words
from bessemer.stages.decontaminate import DecontaminateConfig, decontaminate

SIZE = 5000
SWAPS = {"the": "this", "is": "was", "and": "plus", "of": "from", "a": "one", "in": "within", "many": "several", "how": "what", "to": "towards"}


def background(data: Path) -> list[str]:
    """Real text in pieces of SIZE characters."""
    with zipfile.ZipFile(data / "text/brown/brown_plain.zip") as brown:
        text = "\n".join(brown.read(name).decode("utf-8", "replace") for name in sorted(brown.namelist()) if name.endswith(".txt"))
    text += "".join((data / "text/wikitext-2" / name).read_text() for name in ("valid.txt", "test.txt"))
    return [text[at : at + SIZE] for at in range(0, len(text), SIZE)]


def question(item: items.Item) -> str:
    """The longest text of an item: its question, most often."""
    return max((text for _, text in item.texts), key=len)


def disguised(text: str, way: str, random_: random.Random) -> str:
    """A text as it may be met on the web."""
    tokens = text.split()
    if way == "case and punctuation":
        return re.sub(r"[^\w\s']", lambda _: random_.choice(["", " ", " - "]), text).upper().replace("'", "’").replace("  ", "\n")
    if way == "first half":
        return " ".join(tokens[: max(13, len(tokens) // 2)])
    if way == "a word in 20 changed":
        return " ".join("something" if n % 20 == 17 else token for n, token in enumerate(tokens))
    if way == "paraphrased":  # a word in four or so
        return " ".join(SWAPS.get(token.lower(), token) for token in tokens)
    return text


WAYS = ("verbatim", "with answer", "case and punctuation", "first half", "a word in 20 changed", "paraphrased")


def plant(texts: list[str], found: list[items.Item], seed: int) -> tuple[list[docs.Row], dict[str, tuple[str, str, str]]]:
    """Documents with an item in every second one, and what was planted in each: (way, benchmark, item)."""
    random_ = random.Random(seed)
    chosen = random_.sample(range(len(found)), min(len(found) // 2, len(texts) // 2))
    rows, truth = [], {}
    for number, text in enumerate(texts):
        identifier = f"d{number:06}"
        if number % 2 == 0 and number // 2 < len(chosen):
            item, way = found[chosen[number // 2]], WAYS[number // 2 % len(WAYS)]
            said = "\n".join(t for _, t in item.texts) if way == "with answer" else disguised(question(item), way, random_)
            at = text.find(" ", random_.randrange(len(text) // 2)) + 1
            text = f"{text[:at]}\n{said}\n{text[at:]}"
            truth[identifier] = (way, item.benchmark, item.name)
        rows.append({"id": identifier, "url": "", "title": "", "text": text, "source": ""})
    return rows, truth


def naive(texts: list[str], found: list[items.Item]) -> set[int]:
    """Documents that hold a 13-gram of an item, by a set of tuples of words."""
    grams = set()
    for item in found:
        for _, text in item.texts:
            said = words.words(text)
            grams |= {tuple(said[i : i + 13]) for i in range(len(said) - 12)}
    return {n for n, text in enumerate(texts) if any(tuple(w[i : i + 13]) in grams for w in [words.words(text)] for i in range(len(w) - 12))}


PEER = """
import json, sys, time, types
for name in ("lighteval", "lighteval.tasks", "lighteval.tasks.lighteval_task", "lighteval.tasks.registry"):
    sys.modules[name] = types.ModuleType(name)
from datatrove.pipeline.decont import NGramsDecontIndexer, NGramsDecontConfig
import datatrove.pipeline.decont.n_grams as n_grams
given = json.load(open(sys.argv[1]))
NGramsDecontIndexer._requires_dependencies = []
indexer = NGramsDecontIndexer("/tmp", config=NGramsDecontConfig(n_grams=13, find_query_ngrams=True))
grams = set()
for texts in given["items"]:
    for text in texts:
        grams.update(indexer.compute_hashes(text))
began, found = time.process_time(), []
for number, text in enumerate(given["documents"]):
    tokens = indexer.tokenizer.word_tokenize(n_grams.simplify_text(text, indexer.config.norm_config))
    if any(indexer.hash_func(" ".join(gram)) in grams for gram in n_grams.ngrams(tokens, 13)):
        found.append(number)
print(json.dumps({"found": found, "seconds": time.process_time() - began}))
"""


def peer(python: Path, texts: list[str], found: list[items.Item], folder: Path) -> tuple[set[int], float]:
    """The same by datatrove: documents, and documents per CPU second."""
    file = folder / "peer.json"
    file.write_text(json.dumps({"documents": texts, "items": [[text for _, text in item.texts] for item in found]}))
    said = subprocess.run([python, "-c", PEER, file], capture_output=True, text=True, check=True).stdout
    answer = json.loads(said.strip().splitlines()[-1])
    return set(answer["found"]), len(texts) / answer["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    bench = given.data / "bench"
    paths = [bench / "gsm8k/test.jsonl", bench / "mmlu/val", bench / "agieval", bench / "bbh/tasks"]
    found = list(items.read(paths))
    rows, truth = plant(background(given.data), found, given.seed)
    texts = [row["text"] for row in rows]
    built = index.build(found, 13, 8, 20)
    began = time.process_time()
    for at in range(0, len(texts), 256):
        index.matches(built, texts[at : at + 256])
    ours = len(texts) / (time.process_time() - began)
    began = time.process_time()
    by_tuples = naive(texts, found)
    speed = {"bessemer": ours, "set of tuples": len(texts) / (time.process_time() - began)}

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        docs.write(docs.shard(root / "in", 0), rows)
        numbers = decontaminate(root / "in", tuple(paths), out=root / "out", cfg=DecontaminateConfig(workers=1))
        hits = [json.loads(line) for line in (root / "out/contamination.jsonl").read_text().splitlines()]
        verdicts = {
            (file.stem, row["item"]): row for file in (root / "out/split").iterdir() for row in map(json.loads, file.read_text().splitlines())
        }
        caught = {"bessemer": {hit["document"] for hit in hits}, "set of tuples": {rows[n]["id"] for n in by_tuples}}
        if given.peer:
            others, speed["datatrove"] = peer(given.peer, texts, found, root)
            caught["datatrove"] = {rows[n]["id"] for n in others}
    print(f"{len(found)} items, {len(texts)} documents, {len(truth)} plants; {numbers['rejected']:.0f} documents dropped")
    print("\n| planted | documents | " + " | ".join(caught) + " | items called contaminated |\n|---|---|" + "---|" * (len(caught) + 1))
    for way in WAYS:
        here = {document: place for document, place in truth.items() if place[0] == way}
        shares = [f"{len(here.keys() & some) / len(here):.3f}" for some in caught.values()]
        named = sum(verdicts[benchmark, item]["contaminated"] for _, benchmark, item in here.values()) / len(here)
        print(f"| {way} | {len(here)} | " + " | ".join(shares) + f" | {named:.3f} |")
    clean = len(texts) - len(truth)
    print(f"| nothing | {clean} | " + " | ".join(f"{len(some - truth.keys()) / clean:.4f}" for some in caught.values()) + " | |")
    planted = {place[1:] for place in truth.values()}
    extra = [key for key, row in verdicts.items() if row["contaminated"] and key not in planted]
    print(f"items not planted that are called contaminated: {len(extra)} of {len(verdicts) - len(planted)}")
    print("documents per CPU second: " + ", ".join(f"{name} {rate:.0f}" for name, rate in speed.items()))
    print("spans in documents without a plant:", Counter(hit["benchmark"] for hit in hits if hit["document"] not in truth))
    for hit in [hit for hit in hits if hit["document"] not in truth][:15]:
        print(f"  {hit['benchmark']} {hit['item']} ({hit['words']} words): {' '.join(hit['text'].split())[:110]}")


if __name__ == "__main__":
    main()
