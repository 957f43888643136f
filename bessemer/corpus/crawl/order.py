"""The order of a crawl: breadth first, one level at a time, each level sorted. Nothing here knows how a page is fetched.

Which pages a limited crawl takes therefore depends on the site alone, never on which server answered first, and a crawl that was
killed takes the same pages when it goes on. robots.txt is asked before the first page of every site (RFC 9309).
"""

import asyncio
import hashlib
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from parsel import Selector
from protego import Protego
from w3lib.encoding import html_to_unicode
from w3lib.url import safe_url_string

from bessemer.corpus.crawl import sitemap
from bessemer.corpus.crawl.journal import Answer
from bessemer.corpus.crawl.seeds import LONGEST_URL

REDIRECTS = (301, 302, 303, 307, 308)
HOPS = 10  # redirects followed in a row
LONGEST_DELAY = 600  # seconds; a site that asks for more between two pages does not want to be crawled, and would hold up the others
SITES_AT_ONCE = 64
DEFAULT_PORTS = {"http": 80, "https": 443}

Row = dict[str, Any]
# Fetches one page: the answer, or why there is none. The second argument is the site's Crawl-delay in seconds.
Fetch = Callable[[str, float], Awaitable[Answer | str]]


@dataclass(frozen=True)
class Limits:
    """What a crawl may take."""

    max_pages: int
    max_depth: int
    max_bytes: int
    follow: str  # "site" or "any"
    obey_robots: bool
    allow_private: bool
    concurrency: int
    user_agent: str
    sitemaps: bool = False  # also take the pages that the sitemaps of the seeds' sites list, as if a seed linked to them
    trusted: tuple[str, ...] = ()  # sites that may lie at a private address all the same


@dataclass
class Crawl:
    """The state of a crawl: a row for each URL that was dealt with, and what was left out."""

    rows: dict[str, Row] = field(default_factory=dict)
    robots: dict[str, Protego | str] = field(default_factory=dict)  # of each site, or why none of it may be taken
    found: set[str] = field(default_factory=set)  # links of the level under way
    fetched: int = 0
    offsite: set[str] = field(default_factory=set)
    beyond: set[str] = field(default_factory=set)  # known, but past max_pages or max_depth

    def known(self, limits: Limits) -> int:
        """How many pages the crawl will take, as far as is known now."""
        return min(limits.max_pages, self.fetched + len(self.found - self.rows.keys()))


def normalised(url: str, base: str = "") -> str:
    """An absolute http(s) URL in one spelling, without its fragment; "" where it is none."""
    try:
        parts = urlsplit(safe_url_string(urljoin(base, url.strip())))
        scheme, host, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port
    except ValueError:
        return ""
    if scheme not in DEFAULT_PORTS or not host or len(url) > LONGEST_URL:
        return ""
    host = f"[{host}]" if ":" in host else host
    netloc = host if port in (None, DEFAULT_PORTS[scheme]) else f"{host}:{port}"
    return urlunsplit((scheme, netloc, parts.path or "/", parts.query, ""))


def site_of(url: str) -> str:
    """Scheme, host and port: what one robots.txt speaks for."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def links(body: bytes, content_type: str, url: str) -> set[str]:
    """Where an HTML page leads."""
    if not re.match(r"\s*(text/html|application/xhtml\+xml)", content_type, re.IGNORECASE):
        return set()
    _, text = html_to_unicode(content_type, body)
    root = Selector(text).root
    base = normalised(str(next(iter(root.xpath("//base/@href")), "")), url) or url
    found = {normalised(str(href), base) for href in root.xpath("//a/@href | //area/@href")}
    return found - {""}


def private_address(site: str) -> str:
    """The address of a site that is not on the public internet, or "". A name that does not resolve is left to the download."""
    host = urlsplit(site).hostname or ""
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return ""
    return next((address for address in sorted(addresses) if not ipaddress.ip_address(address.partition("%")[0]).is_global), "")


async def walk(seeds: Iterable[str], limits: Limits, fetch: Fetch, state: Crawl) -> None:
    """Crawl from `seeds`, noting all in `state`. A redirect counts as a page but not as a step in depth; one of a seed may lead to another site."""
    level = {normalised(seed) for seed in seeds}
    sites = {site_of(seed) for seed in level}
    for depth in range(limits.max_depth + 1):
        state.found = set()
        wave = level
        for _ in range(HOPS + 1):
            redirects = await _take(wave, state, limits, fetch)
            if depth == 0:
                sites |= {site_of(url) for url in redirects}
            wave = {url for url in redirects - state.rows.keys() if _inside(url, sites, limits, state)}
            if not wave:
                break
        for url in wave:
            state.rows[url] = {"url": url, "reason": f"more than {HOPS} redirects"}
        if depth == 0 and limits.sitemaps:
            await _list(sites & state.robots.keys(), state, limits, fetch)
        level = {url for url in state.found - state.rows.keys() if _inside(url, sites, limits, state)}
        if not level:
            break
    state.beyond = (state.beyond | level) - state.rows.keys()


async def _list(sites: set[str], state: Crawl, limits: Limits, fetch: Fetch) -> None:
    """Note the pages that the sitemaps of `sites` list, and the sitemaps that cannot be read, but for one that nobody promised."""
    for site in sorted(sites):
        rules = state.robots[site]
        if isinstance(rules, str):
            continue
        named = list(rules.sitemaps) or [f"{site}/sitemap.xml"]
        delay = rules.crawl_delay(limits.user_agent) or 0.0

        async def read(url: str, site: str = site, delay: float = delay) -> Answer | str:
            for _ in range(HOPS):
                if site_of(url) != site:
                    return "on another site"
                answer = await fetch(url, delay)
                if isinstance(answer, str) or answer.status not in REDIRECTS:
                    return answer
                url = normalised(answer.header("Location"), url)
            return f"more than {HOPS} redirects"

        def worth(pages: set[str], site: str = site, rules: Protego = rules) -> int:
            return sum(site_of(url) == site and rules.can_fetch(url, limits.user_agent) for url in pages)

        found, failed = await sitemap.pages(named, read, normalised, worth, limits.max_pages, limits.max_bytes)
        state.found |= found
        promised = {normalised(url) for url in rules.sitemaps}
        state.rows |= {url: {"url": url, "reason": reason} for url, reason in failed.items() if url in promised or url not in map(normalised, named)}


def _inside(url: str, sites: set[str], limits: Limits, state: Crawl) -> bool:
    inside = limits.follow == "any" or site_of(url) in sites
    if not inside:
        state.offsite.add(url)
    return inside


async def _take(urls: set[str], state: Crawl, limits: Limits, fetch: Fetch) -> set[str]:
    """Fetch what may be fetched of `urls`; note each, and its links, in `state`. Returns where redirects lead."""
    new = {site_of(url) for url in urls} - state.robots.keys()
    gate = asyncio.Semaphore(SITES_AT_ONCE)

    async def ask(site: str) -> None:
        async with gate:
            state.robots[site] = await _rules(site, limits, fetch)

    await _all(ask(site) for site in sorted(new))
    allowed: list[str] = []
    for url in sorted(urls):
        rules = state.robots[site_of(url)]
        if isinstance(rules, str):
            state.rows[url] = {"url": url, "reason": rules}
        elif not rules.can_fetch(url, limits.user_agent):
            state.rows[url] = {"url": url, "reason": "robots.txt"}
        else:
            allowed.append(url)
    room = limits.max_pages - state.fetched
    state.beyond |= set(allowed[room:])
    del allowed[room:]
    state.fetched += len(allowed)
    redirects: set[str] = set()

    async def visit(url: str) -> None:
        rules = state.robots[site_of(url)]
        assert isinstance(rules, Protego)
        answer = await fetch(url, rules.crawl_delay(limits.user_agent) or 0.0)
        state.rows[url], onward = described(url, answer, limits.max_bytes)
        (redirects if "location" in state.rows[url] else state.found).update(onward)

    async def visit_site(queue: list[str]) -> None:
        waiting = iter(queue)

        async def worker() -> None:
            for url in waiting:
                await visit(url)

        async with gate:
            await _all(worker() for _ in range(min(limits.concurrency, len(queue))))

    by_site: dict[str, list[str]] = {}
    for url in allowed:
        by_site.setdefault(site_of(url), []).append(url)
    await _all(visit_site(queue) for queue in by_site.values())
    return redirects


async def _all(work: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*work)


def described(url: str, answer: Answer | str, max_bytes: int) -> tuple[Row, set[str]]:
    """The row of a page, and where it leads."""
    if isinstance(answer, str):
        return {"url": url, "reason": answer}, set()
    row: Row = {"url": url, "status": answer.status}
    if answer.status in REDIRECTS:
        target = normalised(answer.header("Location"), url) if answer.header("Location") else ""
        return (row | {"location": target}, {target}) if target else (row | {"reason": f"HTTP {answer.status} to no address"}, set())
    body, kind = answer.decoded(max_bytes), answer.header("Content-Type")
    if body is None:
        return row | {"reason": f"unreadable encoding, or more than {max_bytes} bytes"}, set()
    row |= {"type": kind.partition(";")[0].strip().lower(), "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    if answer.status != 200:
        return row | {"reason": f"HTTP {answer.status}"}, set()
    return row, links(body, kind, url)


async def _rules(site: str, limits: Limits, fetch: Fetch) -> Protego | str:
    """What robots.txt of a site allows, or why nothing of it may be taken. No robots.txt (4xx) allows all; an unreachable one, nothing."""
    if not limits.allow_private and site not in limits.trusted and (address := private_address(site)):
        return f"private address {address}; allow_private permits it"
    if not limits.obey_robots:
        return Protego.parse("")
    url = f"{site}/robots.txt"
    for _ in range(HOPS):
        answer = await fetch(url, 0.0)
        if isinstance(answer, str):
            return answer if answer.startswith("cannot") else f"robots.txt: {answer}"
        if answer.status in REDIRECTS and (target := normalised(answer.header("Location"), url)):
            if not limits.allow_private and site_of(target) not in limits.trusted and private_address(site_of(target)):
                break
            url = target
            continue
        if answer.status >= 500 or answer.status == 429:
            return f"robots.txt: HTTP {answer.status}"
        if answer.status >= 400:
            break
        rules = Protego.parse((answer.decoded(limits.max_bytes) or b"").decode("utf-8", "replace"))
        if (delay := rules.crawl_delay(limits.user_agent) or 0.0) > LONGEST_DELAY:
            return f"robots.txt: Crawl-delay of {delay:g} seconds"
        return rules
    return Protego.parse("")
