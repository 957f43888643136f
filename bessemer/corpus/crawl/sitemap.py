"""Sitemaps: the pages that a site says it has (sitemaps.org, protocol 0.9), so that those no link leads to are found too.

They are named by Sitemap lines of robots.txt, or else lie at /sitemap.xml. A sitemap lists pages or more sitemaps, as XML or as text, gzipped or not.
"""

import zlib
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit

from lxml import etree

from bessemer.corpus.crawl.journal import Answer

MOST = 1000  # sitemaps read of one site
PACKED = (".xml.gz", ".txt.gz")


def is_packed(url: str) -> bool:
    """Whether a URL is that of a gzipped sitemap, going by its name."""
    return urlsplit(url).path.lower().endswith(PACKED)


async def pages(
    named: Iterable[str],
    read: Callable[[str], Awaitable[Answer | str]],
    usual: Callable[[str], str],
    worth: Callable[[set[str]], int],
    most: int,
    max_bytes: int,
) -> tuple[set[str], dict[str, str]]:
    """(the pages listed in the sitemaps `named`, and in those that these name; which sitemap could not be read, and why).

    `usual` gives the one spelling of a URL, "" where it is none. No more sitemaps are read once they list `most` pages
    that are worth something: `worth` says how many of those it is given are.
    """
    waiting = sorted({usual(url) for url in named} - {""})
    seen, found, failed = set(waiting), set[str](), dict[str, str]()
    enough = 0
    while waiting and enough < most:
        url = waiting.pop(0)
        answer = await read(url)
        listed = answer if isinstance(answer, str) else addresses(answer, max_bytes)
        if isinstance(listed, str):
            failed[url] = f"sitemap: {listed}"
            continue
        fresh = {usual(page) for page in listed[0]} - found - {""}
        found |= fresh
        enough += worth(fresh)
        new = sorted({usual(more) for more in listed[1]} - seen - {""})[: MOST - len(seen)]
        seen |= set(new)
        waiting += new
    return found, failed


def addresses(answer: Answer, max_bytes: int) -> tuple[list[str], list[str]] | str:
    """(pages, sitemaps) that a sitemap lists, or why it cannot be read."""
    if answer.status != 200:
        return f"HTTP {answer.status}"
    body = answer.decoded(max_bytes)
    if body is not None and body[:2] == b"\x1f\x8b":
        try:
            body = zlib.decompressobj(31).decompress(body, max_bytes + 1)
        except zlib.error as error:
            return f"not gzip: {error}"
    if body is None or len(body) > max_bytes:
        return f"unreadable encoding, or more than {max_bytes} bytes"
    if b"<" not in body[:1000]:
        return [line.strip() for line in body.decode("utf-8", "replace").splitlines() if line.strip().startswith("http")], []
    # Entities stay unresolved: a few lines of them can stand for gigabytes.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True, huge_tree=False)
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        return f"not XML: {error}"
    if root is None:
        return "not XML"
    locations = [(node.getparent(), (node.text or "").strip()) for node in root.iter("{*}loc")]
    kinds = [(etree.QName(parent).localname if parent is not None else "", text) for parent, text in locations]
    return [text for kind, text in kinds if kind == "url"], [text for kind, text in kinds if kind == "sitemap"]
