"""Crawls of real servers on loopback: politeness, limits, failures, and a kill in mid-crawl."""

import gzip
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from warcio.archiveiterator import ArchiveIterator

from bessemer.core import config
from bessemer.corpus.crawl import order
from bessemer.corpus.crawl.journal import Answer, Journal
from bessemer.eval import exhibits
from bessemer.stages.crawl import CrawlConfig, crawl

pytest.importorskip("scrapy")


class Site:
    """A web server whose pages are a dict: path -> HTML, or (status, headers, body), or a function of the handler."""

    def __init__(self, pages: dict[str, Any]):
        self.pages, self.asked = pages, []  # type: ignore[var-annotated]
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append((self.path, time.monotonic()))
                page = site.pages.get(self.path, (404, {}, b"no such page"))
                if callable(page):
                    page = page(self)
                if isinstance(page, str):
                    page = (200, {}, page.encode())
                status, headers, body = page
                self.send_response(status)
                for name, value in ({"Content-Type": "text/html", "Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@pytest.fixture
def serve() -> Iterator[Any]:
    sites: list[Site] = []

    def start(pages: dict[str, Any]) -> Site:
        sites.append(Site(pages))
        return sites[-1]

    yield start
    for site in sites:
        site.server.shutdown()
        site.server.server_close()


def page(*targets: str) -> str:
    return "<html><body>" + "".join(f'<a href="{target}">x</a>' for target in targets) + "</body></html>"


def go(out: Path, site: Site | None = None, folder: Path | None = None, **fields: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Crawl; the stage's numbers and the rows of pages.jsonl by path."""
    (out / "run").mkdir(parents=True, exist_ok=True)
    values = {"seeds": [site.url + "/"] if site else [], "allow_private": True, "delay": 0.0, "timeout": 5.0, "retries": 0} | fields
    numbers = crawl(folder, out=out, cfg=config.parse(CrawlConfig, values, "crawl"))
    lines = (out / "pages.jsonl").read_text().splitlines()
    assert [json.loads(line)["url"] for line in lines] == sorted(json.loads(line)["url"] for line in lines)
    return numbers, {re.sub(r"https?://[^/]*", "", row["url"]): row for row in map(json.loads, lines)}


def test_failures_redirects_and_types_are_all_accounted_for(serve: Any, tmp_path: Path) -> None:
    other = serve({"/far": page()})
    pages = {
        "/robots.txt": (200, {"Content-Type": "text/plain"}, b"User-agent: bessemer\nDisallow: /secret\n\nUser-agent: *\nDisallow: /"),
        "/": page("/a", "/b#part", "/b", "/gone", "/broken", "/loop1", "/moved", "/picture", "/big", "/secret/x", "mailto:a@b", other.url + "/far"),
        "/a": (200, {"Content-Encoding": "gzip"}, gzip.compress(page("/deeper").encode())),
        "/b": page(),
        "/deeper": page("/"),
        "/broken": (500, {}, b"oh"),
        "/loop1": (302, {"Location": "/loop2"}, b""),
        "/loop2": (302, {"Location": "/loop1"}, b""),
        "/moved": (301, {"Location": "/new"}, b""),
        "/new": page("/from-new"),
        "/from-new": page(),
        "/picture": (200, {"Content-Type": "image/png"}, b"\x89PNG" + bytes(50_000)),
        "/big": (200, {}, b"x" * 300_000),
    }
    site = serve(pages)
    numbers, rows = go(tmp_path, site, max_bytes=200_000)
    assert "/secret/x" not in site.paths() and rows["/secret/x"]["reason"] == "robots.txt"
    assert rows["/gone"]["reason"] == "HTTP 404" and rows["/broken"]["reason"] == "HTTP 500"
    assert rows["/moved"]["location"] == site.url + "/new" and rows["/from-new"]["status"] == 200
    assert {rows["/loop1"]["location"], rows["/loop2"]["location"]} == {site.url + "/loop1", site.url + "/loop2"}
    assert rows["/picture"]["reason"] == "type image/png" and rows["/big"]["reason"] == "more than 200000 bytes"
    assert rows["/deeper"]["status"] == 200  # found behind a compressed page
    assert rows["/a"]["bytes"] == len(page("/deeper"))
    assert other.asked == []
    assert sorted(site.paths()) == sorted(set(site.paths()))  # nothing was fetched twice
    assert numbers == {
        "pages": 6, "bytes": sum(row["bytes"] for row in rows.values() if row.get("status") == 200 and "reason" not in row),
        "redirected": 3, "refused_by_robots": 1, "failed": 4, "offsite": 1, "beyond_limits": 0, "files": 1,
    }  # fmt: skip
    with (tmp_path / "crawl-00000.warc.gz").open("rb") as file:  # another library reads what we wrote, digests included
        records = {}
        for record in ArchiveIterator(file, check_digests="raise"):
            if record.rec_type == "response":
                records[record.rec_headers.get_header("WARC-Target-URI")] = record.content_stream().read()
    assert records[site.url + "/a"] == page("/deeper").encode()
    assert list(records) == sorted(records) and site.url + "/robots.txt" in records


def test_depth_and_page_limits_are_exact_and_independent_of_timing(serve: Any, tmp_path: Path) -> None:
    def slow(text: str) -> Any:
        return lambda _: (time.sleep(0.3), text)[1]

    site = serve(
        {"/": page(*(f"/{n}" for n in range(6))), "/0": slow(page("/deep0")), "/deep0": page("/deeper"), "/deeper": page()}
        | {f"/{n}": page(f"/deep{n}") for n in range(1, 6)}
    )
    numbers, rows = go(tmp_path / "depth", site, max_depth=1)
    assert sorted(rows) == ["/", "/0", "/1", "/2", "/3", "/4", "/5"] and numbers["beyond_limits"] == 6
    numbers, rows = go(tmp_path / "pages", site, max_pages=4)
    assert sorted(rows) == ["/", "/0", "/1", "/2"] and numbers["beyond_limits"] >= 3


def test_crawl_delay_of_robots_txt_is_kept(serve: Any, tmp_path: Path) -> None:
    site = serve({"/robots.txt": "User-agent: *\nCrawl-delay: 0.4", "/": page("/1", "/2", "/3")} | {f"/{n}": page() for n in (1, 2, 3)})
    go(tmp_path, site)
    times = [moment for path, moment in site.asked if path != "/robots.txt"]
    assert len(times) == 4 and min(b - a for a, b in itertools.pairwise(times)) > 0.35


def test_a_stalling_page_costs_its_timeout_and_nothing_else(serve: Any, tmp_path: Path) -> None:
    site = serve({"/": page("/stall", "/fine"), "/stall": lambda _: (time.sleep(4), page())[1], "/fine": page()})
    began = time.monotonic()
    numbers, rows = go(tmp_path, site, timeout=1.0)
    assert rows["/stall"]["reason"] == "timeout" and rows["/fine"]["status"] == 200 and numbers["failed"] == 1
    assert time.monotonic() - began < 10


def test_follow_any_crosses_sites_and_each_has_its_own_robots(serve: Any, tmp_path: Path) -> None:
    other = serve({"/robots.txt": "User-agent: *\nDisallow: /no", "/far": page("/no", "/yes"), "/yes": page()})
    site = serve({"/": page(other.url + "/far")})
    _, rows = go(tmp_path, site, follow="any")
    assert rows["/yes"]["status"] == 200 and rows["/no"]["reason"] == "robots.txt" and "/no" not in other.paths()


def test_an_unreachable_robots_txt_means_keep_out(serve: Any, tmp_path: Path) -> None:
    site = serve({"/robots.txt": (503, {}, b""), "/": page()})
    with pytest.raises(ConnectionError, match=r"not one page came in; http://127\.0\.0\.1:\d+/: robots\.txt: HTTP 503"):
        go(tmp_path, site)
    assert site.paths() == ["/robots.txt"]


def test_unreachable_private_and_missing_seeds_are_named(serve: Any, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:9/: cannot connect: refused"):
        go(tmp_path / "a", None, seeds=["http://127.0.0.1:9/"])
    site = serve({"/": page()})
    with pytest.raises(ConnectionError, match=r"private address 127\.0\.0\.1; allow_private permits it"):
        go(tmp_path / "b", site, allow_private=False)
    assert site.asked == []
    with pytest.raises(ValueError, match="nothing to crawl"):
        go(tmp_path / "c")
    with pytest.raises(ValueError, match=r"'ftp://x' is not an address to crawl"):
        config.parse(CrawlConfig, {"seeds": ["ftp://x"]}, "crawl")


def folder_of_pages(folder: Path, count: int) -> Path:
    folder.mkdir()
    for n in range(count):
        (folder / f"{n:03d}.html").write_text(page(f"{(2 * n + 1) % count:03d}.html", f"{(2 * n + 2) % count:03d}.html") + f"<p>{n} {'text ' * 200}")
    (folder / "index.html").write_text(page("000.html"))
    return folder


def test_a_folder_is_recorded_under_its_alias_the_same_each_time(tmp_path: Path) -> None:
    folder = folder_of_pages(tmp_path / "site", 30)
    made = {}
    for name, fields in {"a": {"concurrency": 1}, "b": {"concurrency": 8}}.items():
        numbers, rows = go(tmp_path / name, folder=folder, alias="http://docs.test", allow_private=False, shard_bytes=4000, **fields)
        assert numbers["pages"] == 31 and numbers["files"] > 2
        assert all(row["url"].startswith("http://docs.test/") for row in rows.values())
        records = []
        for path in sorted((tmp_path / name).glob("*.warc.gz")):
            with path.open("rb") as file:
                iterator = ArchiveIterator(file)
                records += [(path.name, iterator.get_record_offset(), record.rec_headers.get_header("WARC-Target-URI")) for record in iterator]
        made[name] = ((tmp_path / name / "pages.jsonl").read_bytes(), records)
    assert made["a"] == made["b"]  # offsets too, though the dates differ


KILLED = """
import sys
from pathlib import Path
from bessemer.stages.crawl import CrawlConfig, crawl
crawl(None, out=Path(sys.argv[1]), cfg=CrawlConfig(seeds=(sys.argv[2],), allow_private=True, delay=0.0, concurrency=2))
"""


def test_a_killed_crawl_goes_on_to_the_same_pages(serve: Any, tmp_path: Path) -> None:
    count = 60

    def linked(n: int) -> Any:
        return lambda _: (time.sleep(0.02), page(f"/{(2 * n + 1) % count}", f"/{(2 * n + 2) % count}", "/missing"))[1]

    site = serve({"/": page("/0")} | {f"/{n}": linked(n) for n in range(count)})
    go(tmp_path / "whole", site)
    site.asked.clear()
    out = tmp_path / "killed"
    (out / "run").mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out), site.url + "/"], start_new_session=True)
    while len(site.asked) < 30:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # the stage alone: its crawler must end by itself
    process.wait()
    time.sleep(0.5)
    before = len(site.asked)
    time.sleep(0.5)
    assert len(site.asked) == before < count  # nobody is crawling any more
    with (out / "run" / "fetched.warc.gz").open("ab") as file:
        file.write(b"\x1f\x8b\x08 torn")
    numbers, _ = go(out, site)
    assert (out / "pages.jsonl").read_bytes() == (tmp_path / "whole" / "pages.jsonl").read_bytes()
    assert len(site.asked) <= count + 3 + 4  # index, missing, robots; at most what was under way at the kill came twice
    assert numbers["pages"] == count + 1 and not (out / "run" / "fetched.warc.gz").exists()
    site.asked.clear()
    assert go(out, site)[0] == numbers and site.asked == []  # a finished crawl asks nothing


def test_a_full_disk_is_one_clear_error_and_keeps_the_journal(serve: Any, tmp_path: Path) -> None:
    noise = {f"/{n}": (200, {"Content-Type": "text/plain"}, random.Random(n).randbytes(4000)) for n in range(40)}
    site = serve({"/": page(*noise)} | noise)
    command = [
        sys.executable,
        "-m",
        "bessemer",
        "crawl",
        "--seeds",
        site.url + "/",
        "--allow-private",
        "--delay",
        "0",
        "--out",
        str(tmp_path / "out"),
    ]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))  # noqa: E731
    failed = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert failed.returncode == 1 and "error: File too large: " in failed.stderr and "Traceback" not in failed.stderr
    assert not (tmp_path / "out").exists()
    kept = len(Journal(tmp_path / "out.part" / "run" / "fetched.warc.gz").places)
    assert kept > 5
    site.asked.clear()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert len(site.asked) == 42 - kept
    assert len((tmp_path / "out" / "pages.jsonl").read_text().splitlines()) == 41


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_journal_drops_a_torn_record_and_no_other(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "j.warc.gz"
    answers = [Answer(f"http://a.test/{n}", 200, (("Content-Type", "text/html"), ("X", "é"[:n])), bytes([n]) * 5000) for n in range(3)]
    journal = Journal(path)
    ends = []
    for answer in answers:
        journal.append(answer)
        ends.append(journal.size)
    journal.close()
    with path.open("r+b") as file:
        file.truncate(ends[kept] - 7)
    again = Journal(path)
    assert sorted(again.places) == [answer.url for answer in answers[:kept]]
    again.append(answers[2])
    assert again.read(answers[2].url).body == answers[2].body and again.read(answers[2].url).status == 200
    assert Journal(path).places == again.places


def test_urls_have_one_spelling() -> None:
    assert order.normalised("../b?q=1#frag", "http://A.test:80/x/y/z") == "http://a.test/x/b?q=1"
    assert order.normalised("HTTPS://a.test:443") == "https://a.test/"
    assert order.normalised("http://[::1]:8080/ä b") == "http://[::1]:8080/%C3%A4%20b"
    for bad in ("mailto:x@y", "javascript:void(0)", "http://", "http://a.test:99999/", "ftp://a.test/", "http://a.test/" + "x" * 3000):
        assert order.normalised(bad) == "", bad


def test_links_obey_base_and_survive_broken_html() -> None:
    html = b'<base href="/sub/"><a href="x">1</a><a href=y>2<a HREF="#top"><area href="//o.test/z"><a href="mailto:q"><a>\x00<table><<'
    assert order.links(html, "text/html; charset=utf-8", "http://a.test/p") == {
        "http://a.test/sub/x",
        "http://a.test/sub/y",
        "http://a.test/sub/",
        "http://o.test/z",
    }
    assert order.links(html, "text/plain", "http://a.test/p") == set()
    assert order.links(b"", "text/html", "http://a.test/p") == set()


def test_a_small_answer_cannot_unpack_into_a_huge_one() -> None:
    bomb = Answer("http://a.test/", 200, (("Content-Encoding", "gzip"),), gzip.compress(bytes(50_000_000)))
    assert bomb.decoded(1_000_000) is None
    assert Answer("u", 200, (("Content-Encoding", "br"),), b"??").decoded(100) is None
    assert Answer("u", 200, (("Content-Encoding", "gzip"),), b"not gzip").decoded(100) is None


def test_a_header_with_a_strange_line_break_is_one_row(tmp_path: Path) -> None:
    """json leaves U+0085, U+2028 and U+2029 as they are, and str.splitlines cuts at them."""
    rows = [
        {"url": "http://a.test/1", "status": 200, "bytes": 5},
        {"url": "http://a.test/2", "status": 200, "bytes": 0, "reason": "type image/\x85png\u2028\u2029"},
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "run" / "summary.json").write_text("{}")
    numbers = crawl(None, out=tmp_path, cfg=CrawlConfig(seeds=("http://a.test/",)))
    assert (numbers["pages"], numbers["failed"]) == (1, 1)
    assert [row["reason"] for row in exhibits._refused(tmp_path)] == [rows[1]["reason"]]
