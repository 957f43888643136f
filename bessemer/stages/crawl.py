"""Crawl web sites, politely, into WARC files: seed URLs, given or from a file, or a folder of pages that is served on loopback for the time.

pages.jsonl names every URL with what came of it. It is the artifact's content: two crawls of the same pages are the same crawl,
though the WARC files hold different dates. A killed crawl goes on from the records it has.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import bessemer
from bessemer.core import jsonl, log
from bessemer.core.artifact import RUN, write_json
from bessemer.core.config import Count, Whole, runtime
from bessemer.corpus.crawl import seeds
from bessemer.corpus.crawl.loopback import serve


@dataclass(frozen=True)
class CrawlConfig:
    seeds: tuple[str, ...] = ()  # URLs to start from, http or https
    sitemaps: bool = False  # also take the pages that the sites' sitemaps list, as if a seed linked to them
    max_pages: Count = 10_000  # URLs requested at most
    max_depth: Whole = 10  # links from a seed at most
    max_bytes: Count = 10_000_000  # of a page
    follow: Literal["site", "any"] = "site"  # links followed: those on the seeds' own sites, or all
    obey_robots: bool = True  # keep to robots.txt and its Crawl-delay
    allow_private: bool = False  # also crawl hosts at loopback and private addresses
    user_agent: str = "bessemer (web crawler for language model research)"  # name it so that a site's owner can reach you
    alias: str = "http://python-docs.localhost"  # address under which pages of the `site` folder are recorded
    shard_bytes: Count = 100_000_000  # of a WARC file
    retries: Whole = 2  # of a page that failed in passing: a timeout, HTTP 503
    delay: float = runtime(1.0)  # seconds between two requests to a host; none for the `site` folder
    timeout: float = runtime(30.0)  # seconds a page may take
    concurrency: Count = runtime(8)  # requests to a host at a time

    version: ClassVar[int] = 1
    content: ClassVar[tuple[str, ...]] = ("pages.jsonl",)

    def __post_init__(self) -> None:
        for seed in (*self.seeds, self.alias):
            seeds.check(seed)
        if not self.timeout > 0 or not self.delay >= 0:
            raise ValueError(f"timeout must be above 0 and delay at least 0 seconds, not {self.timeout} and {self.delay}")


def crawl(site: Path | None, seeds_file: Path | None = None, *, out: Path, cfg: CrawlConfig) -> dict[str, float]:
    """Write out/crawl-*.warc.gz and out/pages.jsonl. `seeds_file` holds more seeds, one a line. ConnectionError where not one page came in."""
    named = (*cfg.seeds, *(seeds.read(seeds_file) if seeds_file else ()))
    _check(named, has_site=site is not None)
    if not (out / "pages.jsonl").is_file():
        with serve(site) as origin:
            run(orders(cfg, named, out, origin))
    (out / RUN / "fetched.warc.gz").unlink(missing_ok=True)
    rows = jsonl.read(out / "pages.jsonl")
    pages = [row for row in rows if row.get("status") == 200 and "reason" not in row]
    refused = sum(row.get("reason") == "robots.txt" for row in rows)
    redirected = sum("location" in row for row in rows)
    numbers = {"pages": len(pages), "bytes": sum(row["bytes"] for row in pages), "redirected": redirected, "refused_by_robots": refused}
    failed = len(rows) - len(pages) - redirected - refused
    return numbers | {"failed": failed} | json.loads((out / RUN / "summary.json").read_text(encoding="utf-8"))


def estimate(cfg: CrawlConfig, step: Any) -> dict[str, float]:
    """The longest that the limits allow; how large a site is shows only when it is crawled."""
    file = next(iter(step.inputs.get("seeds_file", ())), None)
    named = (*cfg.seeds, *(seeds.read(file) if isinstance(file, Path) else ()))
    _check(named, has_site=bool(step.inputs.get("site")) or bool(file))
    hosts = {seed.split("/")[2] for seed in named}
    return {"seconds": cfg.max_pages * cfg.delay / len(hosts)} if hosts else {}


def _check(named: tuple[str, ...], has_site: bool) -> None:
    if not named and not has_site:
        raise ValueError("nothing to crawl: give seeds (URLs), a seeds_file (of URLs) or a site (a folder of pages)")


def orders(cfg: CrawlConfig, named: tuple[str, ...], out: Path, origin: str) -> dict[str, Any]:
    """What the crawling process is told."""
    alias = cfg.alias.rstrip("/")
    names = ("max_pages", "max_depth", "max_bytes", "follow", "obey_robots", "allow_private", "concurrency", "user_agent", "sitemaps")
    limits = {name: getattr(cfg, name) for name in names} | {"trusted": [alias] if origin else []}
    start = [*named, *([alias + "/"] if origin else [])]
    same = {name: getattr(cfg, name) for name in ("shard_bytes", "retries", "delay", "timeout")}
    return {"out": str(out.resolve()), "seeds": start, "alias": alias, "origin": origin, "limits": limits, **same}


def run(orders: dict[str, Any]) -> None:
    """Run the crawling process and show how far it is. ConnectionError, OSError or RuntimeError where it fails."""
    code = str(Path(bessemer.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))}
    file = Path(orders["out"]) / RUN / "orders.json"  # not an argument: thousands of seeds are longer than the system lets one be
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, orders)
    command = [sys.executable, "-m", "bessemer.corpus.crawl.spider", str(file)]
    # Its input is a pipe that nobody writes to: when this process ends, the pipe closes and the crawler ends too.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, encoding="utf-8") as process:
        assert process.stdout
        error, done = "", 0
        with log.progress("crawl") as bar:
            for line in process.stdout:
                message = json.loads(line)
                error = message.get("error", error)
                if "done" in message:
                    bar.advance(message["done"] - done, note=f"{message['bytes'] / 1e6:.1f} MB", total=message["known"])
                    done = message["done"]
    if error.startswith("not one page"):
        raise ConnectionError(error)
    if error or process.returncode:
        raise OSError(error or f"the crawler ended with status {process.returncode}; see {orders['out']}/{RUN}/crawl.log")
