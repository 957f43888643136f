"""What the report shows, read from finished artifacts: plain values for its template, nothing measured anew."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bessemer.core import artifact, jsonl, log
from bessemer.corpus import documents as docs
from bessemer.data import chat as chat_rows
from bessemer.eval import figures
from bessemer.eval.scores import ALL, CLEAN, CONTAMINATED, spread
from bessemer.tokenizer.tokenizer import Tokenizer

Exhibit = dict[str, Any]
SNIPPET = 280  # characters of an example
# metric: what the page calls it, which way is better, and what it means
METRICS = {
    "bits_per_byte": ("bits per byte", "lower is better", "bits needed for each byte of held-out documentation"),
    "rouge_l": ("ROUGE-L", "higher is better", "words of the answer that stand in the reference in the same order, F1"),
    "exact_match": ("exact match", "higher is better", "answers equal to the reference, but for case, punctuation and articles"),
    "choice": ("multiple choice", "higher is better", "questions whose right choice is the likeliest to the model"),
    "choice_per_byte": ("multiple choice, per byte", "higher is better", "the same, with each choice's log-probability divided by its length"),
    "ended": ("ended", "higher is better", "answers that the model itself brought to an end"),
}


def manifest(path: Path) -> Exhibit:
    """An artifact's manifest. FileNotFoundError where `path` is none: a report without lineage would be hearsay."""
    found = artifact.read_manifest(path)
    if found is None:
        raise FileNotFoundError(f"{path} has no {artifact.MANIFEST}: not an artifact of Bessemer")
    return found


def corpus_stage(path: Path, examples: int) -> Exhibit:
    """A stage of the corpus: what it kept, and what it refused, by reason, with examples."""
    found = manifest(path)
    numbers = found["numbers"]
    reasons: Counter[str] = Counter()
    shown: dict[str, list[Exhibit]] = {}
    for row in _refused(path):
        reasons[row["reason"]] += 1
        if len(shown.setdefault(row["reason"], [])) < examples:
            shown[row["reason"]].append(_example(row))
    kept = numbers.get("documents", numbers.get("pages", 0))
    total = kept + reasons.total()
    refused = [{"reason": r, "count": n, "share": n / total, "examples": shown[r]} for r, n in sorted(reasons.items(), key=lambda x: (-x[1], x[0]))]
    lines = []
    if (path / "shared_lines").is_dir():
        lines = sorted(docs.read(path / "shared_lines"), key=lambda row: (-row["documents"], row["line"]))
    return {
        "name": found["name"], "stage": found["stage"], "numbers": numbers, "kept": kept, "refused": refused, "refused_total": reasons.total(),
        "megabytes": numbers.get("text_bytes", numbers.get("bytes", 0)) / 1e6,
        "lines": [{"line": _cut(row["line"]), "documents": row["documents"]} for row in lines[:examples]], "lines_total": len(lines),
    }  # fmt: skip


def _refused(path: Path) -> Iterator[Exhibit]:
    pages = path / "pages.jsonl"  # a crawl has no documents yet, only pages
    if not pages.is_file():
        yield from docs.rejected(path)
        return
    for row in jsonl.read(pages):
        if row.get("reason") or row.get("status") != 200:
            yield {**row, "reason": row.get("reason") or f"HTTP {row.get('status')}"}


def _example(row: Exhibit) -> Exhibit:
    return {"url": row.get("url") or "", "detail": row.get("detail") or "", "text": _cut(row.get("text") or "")}


def samples(path: Path, count: int) -> list[Exhibit]:
    """`count` documents at even distances in a folder of documents."""
    total = docs.count(path)
    wanted = {i * total // min(count, total) for i in range(min(count, total))}
    return [_example(row) for i, row in enumerate(docs.read(path)) if i in wanted]


def tokens(path: Path, text: str) -> Exhibit:
    """A tokenizer: its figures, its longest entries, and how it cuts `text`."""
    tokenizer = Tokenizer.load(path)
    entries = {tokenizer.decode([i]) for i in range(tokenizer.vocab) if i not in tokenizer.special.values()}
    words = sorted((e for e in entries if any(map(str.isalpha, e)) and "\ufffd" not in e), key=lambda e: (-len(e), e))
    ids = tokenizer.encode(text)
    pieces = [tokenizer.decode([i]) for i in ids]
    return {
        "vocab": tokenizer.vocab, "special": list(tokenizer.special), "numbers": manifest(path)["numbers"], "longest": words[:30],
        "pieces": pieces, "bytes_per_token": len(text.encode()) / max(len(ids), 1),
    }  # fmt: skip


def sentence(texts: Iterable[str], fallback: str) -> str:
    """The first line that reads like prose: it shows a tokenizer better than a signature does."""
    for text in itertools.islice(texts, 200):
        for line in text.splitlines():
            if 90 < len(line) < 240 and sum(c.isalpha() or c == " " for c in line) > 0.93 * len(line) and "  " not in line.strip():
                return line.strip()
    return fallback


def training(path: Path) -> Exhibit:
    """How a model was trained: its numbers, and its curves by subject."""
    found = manifest(path)
    file = path / artifact.RUN / "metrics.jsonl"
    rows = log.read_metrics(file) if file.is_file() else []
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    lines = {name: _points(rows, name) for name in names}

    def figure(label: str, wanted: Sequence[str], note: str = "", from_zero: bool = False) -> list[Exhibit]:
        here = {name: lines[name] for name in wanted if name in lines}
        return (
            [{"label": label, "note": note, "svg": figures.curves(here, f"{found['name']}-{label.replace(' ', '-')}", from_zero=from_zero)}]
            if here
            else []
        )

    losses = [name for name in names if name.endswith("loss")]
    main = [*figure("loss", losses, "nats per token, or per pair"), *figure("bits per byte", ["bits_per_byte", "val_bits_per_byte"])]
    main += figure("reward", ["margin", "val_margin", "chosen_reward", "rejected_reward"], "log-probability against the reference model, times beta")
    main += figure("accuracy", ["accuracy", "val_accuracy"], "pairs whose chosen answer gained more")
    main += figure("tokens per second", ["tokens_per_second"], from_zero=True)
    main += figure("MFU", ["mfu"], "share of the machine's measured matrix-product rate", from_zero=True)
    more = figure("learning rate", ["lr"], from_zero=True) + figure("gradient norm", ["grad_norm"], from_zero=True)
    return {"name": found["name"], "stage": found["stage"], "seconds": found["seconds"], "numbers": found["numbers"], "figures": main, "more": more}


def _points(rows: Sequence[Exhibit], name: str) -> figures.Points:
    here = [row for row in rows if row.get(name) is not None]
    return [row["step"] for row in here], [row[name] for row in here]


def dialogues(path: Path) -> Exhibit:
    """Questions that were held out: how many of each kind, and one of each."""
    rows = chat_rows.read(path / "heldout.jsonl")
    kinds: dict[str, Exhibit] = {}
    for row in rows:
        own = kinds.setdefault(row.get("kind", "other"), {"count": 0, "messages": row["messages"]})
        own["count"] += 1
    return {"numbers": manifest(path)["numbers"], "kinds": sorted(kinds.items()), "total": len(rows)}


def preferences(path: Path, count: int) -> Exhibit:
    """Preference pairs at even distances, each answer with the verifier's score where the row holds one."""
    rows = chat_rows.read(path / "pairs.jsonl")
    pairs = []
    for row in spread(rows, count):
        chosen, rejected = row.get("scores") or (None, None)
        sides = [{"side": "chosen", "text": row["chosen"], "score": chosen}, {"side": "rejected", "text": row["rejected"], "score": rejected}]
        pairs.append({"messages": row["messages"], "kind": row.get("kind") or "", "sides": sides, "reference": row.get("reference", "")})
    return {"numbers": manifest(path)["numbers"], "pairs": pairs, "total": len(rows)}


def evaluation(path: Path, count: int) -> Exhibit:
    """Scores with their figures, differences between models, and the same questions answered by each."""
    manifest(path)
    found = json.loads((path / "scores.json").read_text(encoding="utf-8"))
    by = {(row["metric"], row["kind"], row["model"]): row for row in found["scores"]}
    models = found["models"]
    metrics = []
    for metric, (label, direction, meaning) in METRICS.items():
        rows = [by[metric, ALL, model] for model in models]
        chance = found.get("chance") if metric.startswith("choice") else None
        plot = figures.whiskers({r["model"]: (r["value"], r["low"], r["high"]) for r in rows}, f"score-{metric}", chance)
        metrics.append({"metric": metric, "label": label, "direction": direction, "meaning": meaning, "rows": rows, "svg": plot, "chance": chance})
    named = [kind for kind in dict.fromkeys(k for _, k, _ in by) if kind not in (ALL, CLEAN, CONTAMINATED)]
    kinds = [{"kind": kind, "rows": [by["rouge_l", kind, model] for model in models]} for kind in named]
    split = [
        {"label": METRICS[metric][0], "kind": kind, "rows": [by[metric, kind, model] for model in models]}
        for metric, kind in dict.fromkeys((m, k) for m, k, _ in by if k in (CLEAN, CONTAMINATED))
    ]
    answers = jsonl.read(path / "answers.jsonl")
    changes = [{**row, "label": METRICS[row["metric"]][0]} for row in found["differences"]]
    return {
        "models": models, "confidence": found["confidence"], "metrics": metrics, "kinds": kinds, "split": split, "differences": changes,
        "answers": spread(answers, count), "answers_total": len(answers),
    }  # fmt: skip


def lineage(paths: Iterable[Path]) -> list[Exhibit]:
    """Every stage behind the named artifacts, first to last: a stage stands after all that it was made from."""
    found = {m["key"]: m for path in paths for m in reversed(artifact.ancestors(path)) if manifest(path)}
    done: dict[str, Exhibit] = {}

    def place(key: str) -> None:
        for parents in found[key]["inputs"].values():
            for parent in parents:
                if parent["key"] in found and parent["key"] not in done:
                    place(parent["key"])
        done.setdefault(key, found[key])

    for key in sorted(found, key=lambda k: (found[k]["began"], found[k]["name"])):
        place(key)
    return list(done.values())


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= SNIPPET else text[:SNIPPET].rstrip() + " ..."


def headline(page: Exhibit) -> list[Exhibit]:
    """The few numbers that stand at the top of the page."""
    tiles: list[tuple[str, str]] = []
    if page["corpus"]:
        tiles.append((number(page["corpus"][-1]["kept"]), "documents"))
    if page["models"] and "parameters" in page["models"][0]["numbers"]:
        first = page["models"][0]["numbers"]
        tiles += [(compact(first["parameters"]), "parameters"), (compact(first["tokens"]), "tokens read in pretraining")]
    if found := page["evaluation"]:
        for metric in found["metrics"][:2]:  # bits per byte, ROUGE-L
            first, last = metric["rows"][0], metric["rows"][-1]
            change = f"{first['value']:.2f} → {last['value']:.2f}" if first is not last else f"{last['value']:.2f}"
            tiles.append((change, f"{metric['label']}, {first['model']} → {last['model']}" if first is not last else metric["label"]))
    tiles.append((duration(sum(made["seconds"] for made in page["lineage"])), f"for {len(page['lineage'])} stages"))
    return [{"value": value, "label": label} for value, label in tiles]


def number(value: float) -> str:
    """A number as a person writes it: 12,345 and 0.1235 and 1.3e+15."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e9):
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


def compact(value: float) -> str:
    """4,123,904 as 4.12 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return number(value)


def duration(seconds: float) -> str:
    """90.4 as 1 min 30 s."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
