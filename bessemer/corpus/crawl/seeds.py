"""The seeds of a crawl from a file: one URL a line, blank lines and comments (from # on, at the start of a line or behind a space) left out."""

import re
from pathlib import Path
from urllib.parse import urlsplit

LONGEST_URL = 2000  # characters; beyond it a site is usually building its links in a circle


def check(seed: str) -> None:
    """ValueError where `seed` is no URL to crawl."""
    try:
        parts = urlsplit(seed)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets of an IPv6 address left open, a port that is no number
        named = False
    if not named or not seed.startswith(("http://", "https://")):
        raise ValueError(f"{seed[:200]!r} is not an address to crawl; it must start with http:// or https:// and name a host")
    if len(seed) > LONGEST_URL:
        raise ValueError(f"{seed[:200]!r}... has {len(seed)} characters; an address to crawl has at most {LONGEST_URL}")


def read(path: Path) -> tuple[str, ...]:
    """The URLs in a file, each once. ValueError names the line that holds none."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    found = []
    for number, line in enumerate(lines, 1):
        seed = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not seed:
            continue
        try:
            check(seed)
            if len(seed.split()) > 1:
                raise ValueError(f"{seed[:200]!r} is more than one word; a line holds one URL")
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        found.append(seed)
    if not found:
        raise ValueError(f"{path} names no URL")
    return tuple(dict.fromkeys(found))
