"""From web pages to training text, beside datatrove: the same WARC files, the same machine, one run.

    python benchmarks/corpus.py [--documents 1500] [--rounds 3] [--workers 2] [--growth 1 4 16] [--store FOLDER]

Both sides read WARC, extract the main text, apply FineWeb's filters (Gopher repetition and quality, C4 without the rule on final
punctuation, FineWeb) and remove near-duplicates by MinHash. They take turns; CPU seconds and memory are those of the whole process
tree, start-up included. Then our side alone on 1, 4 and 16 times the pages, to show that memory stays.

What the kept text is worth is measured by benchmarks/extraction.py, filters.py and near_duplicates.py.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pages
import peers

from bessemer.core import artifact

RECIPE = """
[extract]
crawl = "{warcs}"
workers = {workers}

[filter]
documents = "extract"
preset = "web"
workers = {workers}

[dedup]
documents = "filter"
lines = false
workers = {workers}
"""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """What a command and all its descendants took."""

    cpu: float  # seconds
    wall: float  # seconds
    peak: float  # bytes of resident memory, summed over the processes at one moment (shared pages count in each)


def measured(command: list[str], log: Path) -> Cost:
    """Run a command in a session of its own and watch every process of that session, reaped by its parent or not."""
    began, cpu, peak = time.monotonic(), {}, 0
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        while process.poll() is None:
            now = 0
            for stat in _session(process.pid):
                cpu[stat[0]] = max(cpu.get(stat[0], 0.0), stat[1])
                now += stat[2]
            peak = max(peak, now)
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed: {log.read_text(errors='replace')[-2000:]}")
    return Cost(sum(cpu.values()), time.monotonic() - began, peak)


def _session(leader: int) -> Iterator[tuple[int, float, int]]:
    """(process, CPU seconds, resident bytes) of each process in a session."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) == leader:
            yield int(entry.parent.name), (int(fields[11]) + int(fields[12])) / TICKS, int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def ours(warcs: Path, out: Path, workers: int, shards: int) -> tuple[Cost, dict[str, int]]:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "pages.toml").write_text(RECIPE.format(warcs=warcs, workers=workers))
    cost = measured([sys.executable, "-m", "bessemer", "run", str(out / "pages.toml"), "--store", str(out / "store")], out / "log")
    numbers = {name: (artifact.read_manifest(out / "store/pages" / name) or {})["numbers"] for name in ("extract", "filter", "dedup")}
    return cost, {name: int(found["documents"]) for name, found in numbers.items()}


def datatrove(warcs: Path, out: Path, workers: int, shards: int) -> tuple[Cost, dict[str, int]]:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    script = Path(__file__).with_name("datatrove_pipeline.py")
    cost = measured([str(peers.python("datatrove")), str(script), str(warcs), str(out), str(shards), str(workers)], out / "log")
    counts = json.loads((out / "log").read_text(errors="replace").splitlines()[-1])
    found = {re.sub(r"[^\w :]", "", name).strip(): int(n) for name, n in counts.items()}
    named = lambda word: next(n for name, n in found.items() if word in name)  # noqa: E731
    final = json.loads((out / "logs/dedup/stats.json").read_text())[-1]["stats"]["total"]
    return cost, {"extract": named("Trafilatura"), "filter": named("FineWeb"), "dedup": final["total"] if isinstance(final, dict) else final}


def compare(warcs: Path, documents: int, given: argparse.Namespace, store: Path) -> None:
    sides = {"ours": ours, "datatrove": datatrove}
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    counts = {}
    for turn in range(given.rounds):
        for name, side in sides.items():
            cost, counts[name] = side(warcs, store / name, given.workers, given.shards)
            costs[name].append(cost)
            print(f"  round {turn + 1} {name}: {cost.cpu:.1f} CPU-s, {cost.wall:.1f} s", file=sys.stderr)
    print(f"\n| {documents} pages, {given.workers} workers, {given.rounds} rounds | " + " | ".join(sides) + " |")
    print("|---|" + "---|" * len(sides))
    row = lambda label, cell: print(f"| {label} | " + " | ".join(cell(name) for name in sides) + " |")  # noqa: E731
    row("documents per CPU-second", lambda name: spread([documents / cost.cpu for cost in costs[name]], "{:.1f}"))
    row("CPU-seconds", lambda name: spread([cost.cpu for cost in costs[name]], "{:.1f}"))
    row("wall seconds", lambda name: spread([cost.wall for cost in costs[name]], "{:.1f}"))
    row("peak memory, MB", lambda name: spread([cost.peak / 1e6 for cost in costs[name]], "{:.0f}"))
    for stage, label in (("extract", "with text"), ("filter", "passed the filters"), ("dedup", "left after deduplication")):
        row(label, lambda name, stage=stage: str(counts[name][stage]))
    ratios = [theirs.cpu / own.cpu for own, theirs in zip(costs["ours"], costs["datatrove"], strict=True)]
    print(f"\nratio of documents per CPU-second, round by round: {spread(ratios, '{:.1f}')}")


def grow(given: argparse.Namespace, documents: int, store: Path) -> None:
    """Our side on more and more pages. A copy has its long words' letters shifted: other content with the same statistics."""
    print("\n| pages | shards | CPU-s | documents per CPU-s | peak memory, MB |\n|---|---|---|---|---|")
    for times in given.growth:
        warcs = store / f"warcs-{times}"
        shutil.rmtree(warcs, ignore_errors=True)
        for copy in range(times):
            pages.write(warcs / f"{copy:03d}", shifted(documents, copy), given.shards)
        cost, _ = ours(warcs, store / "grown", given.workers, given.shards)
        rate = documents * times / cost.cpu
        print(f"| {documents * times} ({times}x) | {given.shards * times} | {cost.cpu:.1f} | {rate:.0f} | {cost.peak / 1e6:.0f} |", flush=True)
        shutil.rmtree(warcs)


def shifted(documents: int, by: int) -> Iterator[tuple[str, bytes]]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    table = str.maketrans(letters, letters[by:] + letters[:by])
    for url, html in pages.pages(documents):
        text = re.sub(r">([^<]+)<", lambda m: re.sub(r"[a-z]{6,}", lambda w: w[0].translate(table), m[0]), html.decode("utf-8", "replace"))
        yield f"{url}?{by}", text.encode() if by else html


def spread(values: list[float], form: str) -> str:
    """Median and range."""
    middle = form.format(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))} to {form.format(max(values))})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1500)
    parser.add_argument("--shards", type=int, default=4, help="WARC files the pages are packed into")
    parser.add_argument("--rounds", type=int, default=3, help="0 leaves the comparison out")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--growth", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--store", type=Path, default=None, help="where to work; a temporary folder that is removed otherwise")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = (given.store or Path(temporary)).resolve()
        size = pages.write(store / "warcs", pages.pages(given.documents), given.shards)
        print(f"{given.documents} pages, {size / 1e6:.1f} MB of HTML; " + ", ".join(f"{n} {version(n)}" for n in ("fastwarc", "pyarrow", "rensa")))
        if given.rounds:
            code = "from importlib.metadata import version; import sys; print(', '.join(f'{n} {version(n)}' for n in sys.argv[1:]))"
            command = [peers.python("datatrove"), "-c", code, "datatrove", "trafilatura", "spacy"]
            peer = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"beside {peer.stdout.strip()}")
            compare(store / "warcs", given.documents, given, store)
        if given.growth:
            grow(given, given.documents, store)


if __name__ == "__main__":
    main()
