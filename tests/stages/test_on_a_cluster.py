"""Real stages, run here and on a Ray cluster, write the same bytes: one that judges each document, and one that compares all of them."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bessemer.core import artifact
from bessemer.corpus import documents

pytest.importorskip("ray", reason="the extra `cluster` is not installed")


def corpus(folder: Path) -> Path:
    """Three shards of prose, a tenth of it near-duplicates, some of it too short to keep."""
    draw = random.Random(7)
    words = [f"{a}{b}" for a in ("mill", "river", "stone", "valley", "corn", "bridge") for b in ("", "s", "like", "side", "less", "work")]
    texts = [" ".join(draw.choices([*words, "the", "of", "and", "that"], k=draw.choice([5, 120, 200]))) for _ in range(90)]
    texts += [text.replace("mills", "fields") for text in texts[:10]]
    for shard in range(3):
        rows = [{"id": documents.identifier(str(n)), "text": text} for n, text in enumerate(texts) if n % 3 == shard]
        documents.write(documents.shard(folder, shard), rows)
    return folder


def run(stage: str, source: Path, out: Path, *words: str) -> dict[str, bytes]:
    """A stage by its command; the files it wrote, but for what it measured about itself and when."""
    command = [sys.executable, "-m", "bessemer", stage, "--documents", str(source), "--out", str(out), *words]
    # Ray's memory monitor looks at the whole machine, where neighbours may fill it.
    done = subprocess.run(command, env=os.environ | {"RAY_memory_monitor_refresh_ms": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != artifact.MANIFEST]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept if path.relative_to(out).parts[0] != artifact.RUN}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "words"), [("filter", ("--preset", "documentation")), ("dedup", ())])
def test_a_stage_writes_the_same_here_and_on_a_cluster(tmp_path: Path, stage: str, words: tuple[str, ...]) -> None:
    source = corpus(tmp_path / "in")
    here = run(stage, source, tmp_path / "here", *words)
    assert run(stage, source, tmp_path / "there", *words, "--cluster", "local") == here
    assert sum(name.startswith("part-") for name in here) == 3
    rejected = list(documents.rejected(tmp_path / "there", ["reason"]))
    assert {row["reason"] for row in rejected} == ({"exact", "near"} if stage == "dedup" else {"gopher_quality.min_words"})
