"""What became of the documents: the funnel from the first stage to an artifact, and one document's way through it.

Manifests tell the funnel; a document's way is read from the artifacts that lie where they were made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bessemer.core import artifact
from bessemer.corpus import documents as docs
from bessemer.corpus.documents import Row

WAY = ("crawl", "source", "documents")  # inputs that a document comes by; others are what it is judged by: a classifier, benchmarks
UNSAID = ("text", "source", "id", "url", "title")  # columns that say where a document is from, not what was found out about it


@dataclass(frozen=True)
class Level:
    """One stage of the funnel."""

    name: str
    documents: int
    text_bytes: int
    rejected: int
    reasons: dict[str, int]  # most frequent first

    @property
    def kept(self) -> float:
        """Share of the documents that came in."""
        return self.documents / max(self.documents + self.rejected, 1)


def funnel(manifests: list[dict[str, Any]]) -> list[Level]:
    """The corpus stages that the documents of the first manifest came through, first stage first.

    `manifests` are nearest first, as `artifact.ancestors` gives them.
    """
    levels, on_way, known = [], set(), {manifest["key"]: manifest for manifest in manifests}
    open_ends = [manifest["key"] for manifest in manifests[:1]]
    while open_ends:
        if (key := open_ends.pop()) in known and key not in on_way:
            on_way.add(key)
            open_ends += [source["key"] for name in WAY for source in known[key]["inputs"].get(name, ())]
    for manifest in reversed(manifests):
        numbers = manifest["numbers"]
        if manifest["key"] in on_way and "rejected" in numbers and "text_bytes" in numbers:
            found = {name.removeprefix("rejected: "): int(n) for name, n in numbers.items() if name.startswith("rejected: ")}
            reasons = dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))
            levels.append(Level(manifest["name"], int(numbers["documents"]), int(numbers["text_bytes"]), int(numbers["rejected"]), reasons))
    return levels


def samples(folder: Path, each: int = 1) -> Iterator[Row]:
    """The first `each` refused documents of every reason, in order of appearance."""
    seen: dict[str, int] = {}
    for row in docs.rejected(folder):
        seen[row["reason"]] = seen.get(row["reason"], 0) + 1
        if seen[row["reason"]] <= each:
            yield row


def trace(folder: Path, document: str) -> list[tuple[str, Row]]:
    """(stage's name, row) of a document in each artifact from the first to `folder`; a row with a `reason` was refused there.

    `document` is an id or a URL. Stages whose artifact is not where it was made are passed over. KeyError where it is in none.
    """
    found = [(name, row) for name, path in _folders(folder) if (row := _row(path, document))]
    if not found:
        raise KeyError(f"no document {document} in {folder} or what it was made of")
    return found


def _folders(folder: Path) -> list[tuple[str, Path]]:
    """(name, folder) of every corpus artifact that `folder` was made of, and itself, first stage first, each once."""
    manifest = artifact.read_manifest(folder)
    found: dict[Path, str] = {}
    for sources in manifest["inputs"].values() if manifest else ():
        for source in sources:
            if Path(source["path"]).is_dir():
                found |= {path: name for name, path in _folders(Path(source["path"]))}
    if any(folder.glob("part-*.parquet")):
        found[folder.resolve()] = manifest["name"] if manifest else folder.name
    return [(name, path) for path, name in found.items()]


def _row(folder: Path, document: str) -> Row | None:
    for place in (folder, folder / docs.REJECTED):
        for path in sorted(place.glob("part-*.parquet")):
            names = [name for name in ("id", "url") if name in pq.read_schema(path).names]
            if len(rows := pq.read_table(path, filters=[[(name, "=", document)] for name in names])):
                return rows.slice(0, 1).to_pylist()[0]
    return None


def findings(way: list[tuple[str, Row]]) -> Iterator[tuple[str, str]]:
    """(stage, what it found out) along a document's way: new and changed columns, and the verdict."""
    before: Row = {}
    for name, row in way:
        said = [f"{k}={_short(v)}" for k, v in row.items() if k not in UNSAID and k not in docs.REASON and v is not None and before.get(k) != v]
        if row.get("reason"):
            said.append(f"refused: {row['reason']} ({row.get('detail') or 'no detail'})")
        elif before and before.get("text") != row.get("text"):
            said.append(f"text {len(before.get('text') or '')} -> {len(row.get('text') or '')} characters")
        yield name, ", ".join(said) or "kept as it was"
        before = row


def _short(value: Any) -> str:
    if isinstance(value, dict):  # counts by kind
        return " ".join(f"{k}:{v}" for k, v in value.items() if v) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
