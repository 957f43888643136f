"""The process that fetches: Scrapy's downloader under the order of `order.walk`, into a journal.

It runs apart from the stage, because a Twisted reactor starts once per process. Its orders come as JSON in the file that its first
argument names; what happens goes to standard output, one JSON object a line. It ends when its standard input does: so it never outlives
the stage.
"""

import asyncio
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy import exceptions, signals
from scrapy.crawler import AsyncCrawlerProcess

from bessemer.core import jsonl
from bessemer.core.artifact import RUN, write_json
from bessemer.corpus.crawl import order, sitemap
from bessemer.corpus.crawl.journal import Answer, Journal

WANTED = ("text/", "application/xhtml+xml", "application/xml")
SAY_EVERY = 0.5  # seconds
TWISTED = re.compile(r"\[<twisted\.python\.failure\.Failure (?:\w+\.)*(\w+): (.*)>\]")  # how it wraps what went wrong
FAILURES = {
    exceptions.CannotResolveHostError: "cannot resolve the host name",
    exceptions.DownloadConnectionRefusedError: "cannot connect: refused",
    exceptions.DownloadTimeoutError: "timeout",
    exceptions.ResponseDataLossError: "the connection broke off",
}


class PageSpider(scrapy.Spider):
    """Fetches pages on request. The crawl's order is not its own: it never follows a link."""

    name = "bessemer"

    def __init__(self, orders: dict[str, Any]):
        super().__init__()
        self.out = Path(orders["out"])
        self.orders = orders
        self.limits = order.Limits(**orders["limits"])
        self.state = order.Crawl()
        self.journal = Journal(self.out / RUN / "fetched.warc.gz")
        self.done = self.bytes = 0
        self.said = 0.0
        self.error = ""

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> "PageSpider":
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.look_at_headers, signals.headers_received)
        return spider

    def look_at_headers(self, headers: Any, body_length: int, request: Any, spider: Any) -> None:
        """Do not download pictures and archives."""
        kind = (headers.get("Content-Type") or b"text/html").decode("latin-1").strip().lower()
        if not kind.startswith(WANTED) and not sitemap.is_packed(request.url):
            raise exceptions.StopDownload(fail=False)

    async def start(self) -> AsyncIterator[Any]:
        try:
            await order.walk(self.orders["seeds"], self.limits, self.fetch, self.state)
            self.finish(self.state)
        except OSError as error:
            self.error = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        except BaseException as error:  # Scrapy would log it and end as if all were well
            logging.exception("crawl failed")
            self.error = f"{type(error).__name__}: {error}"
        return
        yield  # a generator, as Scrapy wants it

    async def fetch(self, url: str, delay: float) -> Answer | str:
        """A page from the journal, or else from its server; a page that cannot be had is its reason."""
        if url in self.journal:
            answer: Answer | str = self.journal.read(url)
        else:
            answer = await self.download(url, delay)
            if isinstance(answer, Answer):
                self.journal.append(answer)
        self.done += 1
        self.bytes += len(answer.body) if isinstance(answer, Answer) else 0
        if time.monotonic() - self.said > SAY_EVERY:
            self.said = time.monotonic()
            self.report()
        return answer

    async def download(self, url: str, delay: float) -> Answer | str:
        alias, origin = self.orders["alias"], self.orders["origin"]
        real = origin + url[len(alias) :] if origin and order.site_of(url) == alias else url
        slot = urlsplit(real).netloc
        self.slow_down(slot, 0.0 if origin and real.startswith(origin) else self.orders["delay"], delay)
        meta = {"dont_redirect": True, "handle_httpstatus_all": True, "download_slot": slot}
        assert self.crawler.engine
        try:
            response = await self.crawler.engine.download_async(scrapy.Request(real, meta=meta, dont_filter=True))
        except exceptions.DownloadCancelledError:
            return f"more than {self.limits.max_bytes} bytes"
        except Exception as error:  # whatever it is, it is this page's trouble, not the crawl's
            said = TWISTED.sub(r"\1: \2", " ".join(str(error).split()))[:200]
            return next((reason for kind, reason in FAILURES.items() if isinstance(error, kind)), f"cannot fetch: {type(error).__name__}: {said}")
        headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, values in response.headers.items() for v in values)
        answer = Answer(url, response.status, headers, response.body)
        if "download_stopped" in response.flags:
            return f"type {answer.header('Content-Type').partition(';')[0].strip().lower()}"
        return answer

    def slow_down(self, slot: str, own: float, asked: float) -> None:
        """Keep the longer of our delay and the one robots.txt asks for. Scrapy knows the latter but does not apply it."""
        assert self.crawler.engine
        downloader = self.crawler.engine.downloader
        settings: dict[str, float] = {"delay": max(own, asked), "concurrency": 1 if asked else self.limits.concurrency}
        downloader.per_slot_settings[slot] = settings  # for a slot that was idle and is made anew
        if slot in downloader.slots:
            downloader.slots[slot].delay, downloader.slots[slot].concurrency = max(own, asked), int(settings["concurrency"])

    def finish(self, found: order.Crawl) -> None:
        """Write the WARC files and, last, pages.jsonl. A crawl that got no page at all writes nothing, so that it is tried again."""
        rows = [found.rows[url] for url in sorted(found.rows)]
        if not any(row.get("status") == 200 and "reason" not in row for row in rows):
            seeds = {order.normalised(seed) for seed in self.orders["seeds"]}
            first = next(row for row in rows if row["url"] in seeds)
            self.error = f"not one page came in; {first['url']}: {first.get('reason') or 'HTTP ' + str(first.get('status'))}"
            return
        robots = {f"{site}/robots.txt" for site in found.robots}
        files = self.journal.settle(self.out, [*found.rows, *robots], self.orders["shard_bytes"])
        write_json(self.out / RUN / "summary.json", {"offsite": len(found.offsite), "beyond_limits": len(found.beyond), "files": files})
        jsonl.write(self.out / "pages.jsonl", (dict(sorted(row.items())) for row in rows))
        self.report()

    def report(self) -> None:
        say({"done": self.done, "known": self.state.known(self.limits), "bytes": self.bytes})


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def settings(orders: dict[str, Any]) -> dict[str, Any]:
    return {
        "LOG_FILE": str(Path(orders["out"]) / RUN / "crawl.log"),
        "LOG_LEVEL": "INFO",
        "USER_AGENT": orders["limits"]["user_agent"],
        "DOWNLOAD_TIMEOUT": orders["timeout"],
        "DOWNLOAD_MAXSIZE": orders["limits"]["max_bytes"],
        "DOWNLOAD_WARNSIZE": 0,
        "RETRY_TIMES": orders["retries"],
        "DOWNLOAD_DELAY_JITTER": 0.0,
        # robots.txt is ours (order.walk): Scrapy takes an unreachable one for permission and does not apply Crawl-delay.
        "ROBOTSTXT_OBEY": False,
        # Bodies are recorded as they came, so Scrapy must not unpack them.
        "COMPRESSION_ENABLED": False,
        "DEFAULT_REQUEST_HEADERS": {"Accept": "text/html,application/xhtml+xml;q=0.9,text/*;q=0.8", "Accept-Encoding": "gzip"},
        "COOKIES_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
    }


def main() -> None:
    orders = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # The stage holds the other end of our input: when it dies, however it dies, this ends too.
    threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
    process = AsyncCrawlerProcess(settings(orders))
    crawler = process.create_crawler(PageSpider)
    task = process.crawl(crawler, orders=orders)
    process.start(install_signal_handlers=False)
    error = "the crawler did not start; see run/crawl.log"
    if isinstance(crawler.spider, PageSpider):
        error = crawler.spider.error
    elif isinstance(task, asyncio.Task) and task.done() and task.exception():
        error = str(task.exception())
    if error:
        say({"error": error})
    os._exit(1 if error else 0)


if __name__ == "__main__":
    main()
