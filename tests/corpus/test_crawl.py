"""Crawls of real servers on loopback: politeness, limits, failures, and a kill in mid-crawl."""

import contextlib
import gzip
import itertools
import json
import os
import random
import re
import resource
import signal
import socket
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
from bessemer.corpus import documents
from bessemer.corpus.crawl import order
from bessemer.corpus.crawl.journal import Answer, Journal
from bessemer.eval import exhibits
from bessemer.stages.crawl import CrawlConfig, crawl
from bessemer.stages.extract import ExtractConfig, extract

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


def test_a_site_that_asks_for_years_between_pages_is_left_alone(serve: Any, tmp_path: Path) -> None:
    never = serve({"/robots.txt": "User-agent: *\nCrawl-delay: 1e9", "/far": page("/1")})
    site = serve({"/": page(never.url + "/far", "/fine"), "/fine": page()})
    _, rows = go(tmp_path, site, follow="any")
    assert rows["/fine"]["status"] == 200 and never.paths() == ["/robots.txt"]
    assert rows["/far"]["reason"] == "robots.txt: Crawl-delay of 1e+09 seconds"


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
from bessemer.stages.extract import ExtractConfig, extract
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
    assert order.links(b'<base href="http://["><a href="x">', "text/html", "http://a.test/p") == {"http://a.test/x"}


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


# Seeds from a file and from sitemaps


def test_more_seeds_than_an_argument_can_hold(serve: Any, tmp_path: Path) -> None:
    site = serve({"/0": page()})
    names = [f"{site.url}/{n}{'x' * 100 if n else ''}" for n in range(2000)]
    assert len("".join(names)) > 1 << 17  # Linux: MAX_ARG_STRLEN
    numbers, rows = go(tmp_path / "out", site, seeds=names, max_pages=1)
    assert list(rows) == ["/0"] and numbers["beyond_limits"] == 1999


def test_seeds_from_a_file(serve: Any, tmp_path: Path) -> None:
    site, other = serve({"/": page("/a"), "/a": page(), "/b": page()}), serve({"/": page()})
    (tmp_path / "seeds.txt").write_text(f"\ufeff# two sites\n\n{site.url}/\r\n  {other.url}/  \n{site.url}/b # twice\n{site.url}/\n")
    (tmp_path / "out" / "run").mkdir(parents=True)
    numbers = crawl(None, tmp_path / "seeds.txt", out=tmp_path / "out", cfg=CrawlConfig(allow_private=True, delay=0.0))
    assert numbers["pages"] == 4 and site.paths().count("/") == 1
    for text, message in {
        "http://a.test/\nwww.b.test\n": r"bad\.txt:2: 'www\.b\.test' is not an address to crawl",
        "http://a.test/ http://b.test/": r"bad\.txt:1: '.*' is more than one word",
        "# nothing\n": r"bad\.txt names no URL",
        "http://": r"bad\.txt:1: 'http://' is not an address",
        "http://[::1/": r"bad\.txt:1: 'http://\[::1/' is not an address",
        "http://a.test:port/": r"bad\.txt:1: 'http://a\.test:port/' is not an address",
        "http://a.test/" + "x" * 2000: r"bad\.txt:1: 'http://a\.test/x+'\.\.\. has 2014 characters",
    }.items():
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            crawl(None, tmp_path / "bad.txt", out=tmp_path / "out2", cfg=CrawlConfig())
    (tmp_path / "bad.txt").write_bytes(b"http://a.test/\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        crawl(None, tmp_path / "bad.txt", out=tmp_path / "out2", cfg=CrawlConfig())


def sitemap_of(kind: str, *targets: str) -> bytes:
    outer = {"url": "urlset", "sitemap": "sitemapindex"}[kind]
    items = "".join(f"<{kind}><loc> {target} </loc><lastmod>2024-01-01</lastmod></{kind}>" for target in targets)
    return f'<?xml version="1.0"?><{outer} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{items}</{outer}>'.encode()


def test_sitemaps_show_pages_that_nothing_links_to(serve: Any, tmp_path: Path) -> None:
    """An index names one in XML, one gzipped, one as text, itself, and one that is missing; robots.txt names one more, which is no XML."""
    xml, zipped = {"Content-Type": "application/xml"}, {"Content-Type": "application/x-gzip"}
    site = serve({"/": page()} | {f"/{n}": page() for n in range(6)})
    url = site.url
    index = sitemap_of("sitemap", *(f"{url}/{name}" for name in ("a.xml", "b.xml.gz", "c.txt", "index.xml", "gone.xml")))
    site.pages |= {
        "/robots.txt": f"User-agent: *\nDisallow: /5\nSitemap: {url}/index.xml\nSitemap: {url}/no.xml",
        "/index.xml": (200, xml, index),
        "/a.xml": (200, xml, sitemap_of("url", f"{url}/1", "http://elsewhere.test/", f"{url}/5")),
        "/b.xml.gz": (200, zipped, gzip.compress(sitemap_of("url", f"{url}/2", f"{url}/3"))),
        "/c.txt": (200, {"Content-Type": "text/plain"}, f"{url}/4\nnonsense\n".encode()),
        "/no.xml": (200, xml, b"<"),
    }  # fmt: skip
    numbers, rows = go(tmp_path / "with", site, sitemaps=True)
    assert {path for path, row in rows.items() if row.get("status") == 200} == {"/", "/1", "/2", "/3", "/4"}
    assert rows["/5"]["reason"] == "robots.txt" and rows["/gone.xml"]["reason"] == "sitemap: HTTP 404"
    assert rows["/no.xml"]["reason"].startswith("sitemap: not XML")
    assert (numbers["pages"], numbers["failed"], numbers["offsite"]) == (5, 2, 1) and site.paths().count("/index.xml") == 1
    numbers, rows = go(tmp_path / "without", site)
    assert list(rows) == ["/"]
    numbers, rows = go(tmp_path / "limited", site, sitemaps=True, max_pages=3)
    assert {path for path, row in rows.items() if row.get("status") == 200} == {"/", "/1", "/2"} and numbers["beyond_limits"] == 1


def test_the_usual_place_of_a_sitemap_is_tried_and_may_be_empty_or_hostile(serve: Any, tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    laughs = f'<!DOCTYPE x [<!ENTITY e0 "http://a.test/">{entities}]><urlset><url><loc>&e9;</loc></url></urlset>'
    site = serve({"/": page(), "/1": page(), "/sitemap.xml": (302, {"Location": "/real.xml"}, b"")})
    site.pages["/real.xml"] = (200, {"Content-Type": "text/xml"}, sitemap_of("url", site.url + "/1"))
    assert go(tmp_path / "usual", site, sitemaps=True)[0]["pages"] == 2
    site.pages["/real.xml"] = (200, {"Content-Type": "text/xml"}, laughs.encode())
    assert go(tmp_path / "laughs", site, sitemaps=True)[0]["pages"] == 1
    site.pages["/sitemap.xml"] = (200, {"Content-Type": "application/xml", "Content-Encoding": "gzip"}, gzip.compress(bytes(50_000_000)))
    numbers, rows = go(tmp_path / "bomb", site, sitemaps=True)
    assert numbers["pages"] == 1 and list(rows) == ["/"]
    del site.pages["/sitemap.xml"]
    assert list(go(tmp_path / "none", site, sitemaps=True)[1]) == ["/"]


# A server that means harm


BOMB = gzip.compress(bytes(100_000_000))


def hostile(connection: socket.socket, path: str, origin: str) -> None:
    """Answer a request in a way that no client hopes for."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
    send = connection.sendall
    if path in ("/no-headers", "/drip", "/drip-headers"):
        send({"/no-headers": b"", "/drip": head + b"Content-Length: 100000\r\n\r\n", "/drip-headers": b"HTTP/1.1 200 OK\r\nX: "}[path])
        for _ in range(200):
            time.sleep(0.1)
            if path != "/no-headers":
                send(b"x")
    elif path == "/endless":
        send(head + b"\r\n")
        while True:
            send(b"<p>more</p>" * 1000)
    elif path == "/endless-headers":
        send(b"HTTP/1.1 200 OK\r\n")
        for n in range(100_000):
            send(b"X-%d: %s\r\n" % (n, b"y" * 1000))
    elif path.startswith("/calendar"):
        day = int(path.rpartition("/")[2])
        links = f'<a href="/calendar/{day + 1}">next</a><a href="{path}/x/{day + 1}">deeper</a>'.encode()
        send(head + b"Content-Length: %d\r\n\r\n" % len(links) + links)
    elif path == "/line":
        body = b"<p>" + b"word " * 400_000
        send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    elif path == "/bomb":
        send(head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB)
    else:
        answers = {
            "/robots.txt": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "/chunks": head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n<p>broken",
            "/cut-chunks": head + b"Transfer-Encoding: chunked\r\n\r\n1000\r\n<p>cut off",
            "/longer": head + b"Content-Length: 1000\r\n\r\n<p>shorter than it says",
            "/shorter": head + b"Content-Length: 5\r\n\r\n<p>ab and much more than it says",
            "/negative": head + b"Content-Length: -5\r\n\r\n<p>x",
            "/not-http": b"SSH-2.0-OpenSSH_9.6\r\n",
            "/binary": bytes(range(256)) * 10,
            "/nothing": b"",
            "/lies": b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=no-such\r\nContent-Length: 8\r\n\r\n\x89PNG\r\n\x1a\n",
            "/not-gzip": head + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain",
            "/self": b"HTTP/1.1 301 Moved\r\nLocation: /self\r\nContent-Length: 0\r\n\r\n",
            "/nowhere": b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\nContent-Length: 0\r\n\r\n",
            "/status": b"HTTP/1.1 999 What\r\nContent-Type: text/html\r\nContent-Length: 1\r\n\r\nx",
            "/fine": head + b"Content-Length: 7\r\n\r\n<p>fine",
        }
        links = [
            *(set(answers) - {"/robots.txt"}),
            "/no-headers",
            "/drip",
            "/drip-headers",
            "/endless",
            "/endless-headers",
            "/calendar/0",
            "/line",
            "/bomb",
        ]
        index = page(*links).encode()
        answers["/"] = head + b"Content-Length: %d\r\n\r\n" % len(index) + index
        if found := re.fullmatch(r"/hop/(\d+)", path):
            answers[path] = b"HTTP/1.1 302 Found\r\nLocation: /hop/%d\r\nContent-Length: 0\r\n\r\n" % (int(found[1]) + 1)
        send(answers[path])


@pytest.fixture
def villain() -> Iterator[str]:
    """The address of a server that answers by `hostile`, each request on a connection of its own."""
    listening = socket.create_server(("127.0.0.1", 0))
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def serve_one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = connection.recv(65536).decode("latin-1")
            if request:
                hostile(connection, request.split(" ")[1], origin)

    def serve_all() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve_one, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=serve_all, daemon=True).start()
    yield origin
    listening.close()


def test_a_hostile_server_costs_its_own_pages_and_nothing_else(villain: str, tmp_path: Path) -> None:
    seeds = [villain + "/", villain + "/hop/0"]
    numbers, rows = go(tmp_path, None, seeds=seeds, timeout=2.0, retries=0, max_depth=4, max_bytes=1_000_000, concurrency=16)
    reasons = {path: row["reason"] for path, row in rows.items() if "reason" in row}
    refused = {path: reason for path, reason in reasons.items() if reason.startswith("cannot fetch: ")}
    # A hundred megabytes of headers: whether Twisted's limit or the clock ends it depends on the machine.
    assert refused.pop("/endless-headers", "timeout") and reasons.pop("/endless-headers")
    assert refused.keys() == {"/binary", "/not-http", "/negative", "/nothing"} and "Failure" not in str(refused)
    assert {path: reason for path, reason in reasons.items() if path not in refused} == {
        **dict.fromkeys(["/no-headers", "/drip", "/drip-headers"], "timeout"),
        **dict.fromkeys(["/chunks", "/cut-chunks", "/longer"], "the connection broke off"),
        **dict.fromkeys(["/endless", "/line"], "more than 1000000 bytes"),
        **dict.fromkeys(["/bomb", "/not-gzip"], "unreadable encoding, or more than 1000000 bytes"),
        "/hop/11": "more than 10 redirects", "/nowhere": "HTTP 302 to no address", "/status": "HTTP 999",
    }  # fmt: skip
    assert {path for path, row in rows.items() if "location" in row} == {"/self", *(f"/hop/{n}" for n in range(11))}
    # /calendar/0 lies at depth 1, and n pages at depth n: the next day and n - 1 deeper ones. 1 + 2 + 3 + 4 = 10; the 5 of depth 5 are beyond.
    calendar = [path for path in rows if path.startswith("/calendar")]
    assert len(calendar) == 10 and all(rows[path]["status"] == 200 for path in [*calendar, "/", "/fine", "/shorter", "/lies"])
    assert (numbers["pages"], numbers["redirected"], numbers["failed"], numbers["beyond_limits"]) == (14, 12, len(reasons) + 1, 5)
    out = tmp_path / "documents"
    kept = extract(tmp_path, out=out, cfg=ExtractConfig(workers=1))
    assert {re.sub(r"https?://[^/]*", "", row["url"]) for row in documents.read(out)} >= {"/fine"} and kept["documents"] + kept["rejected"] >= 14
