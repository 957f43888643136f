"""E-mail and IP addresses in text: where they stand, as (start, end).

Time is linear in the text: an e-mail address is looked for only around an @, a fixed distance to each side.
"""

import ipaddress
import re
from collections.abc import Iterator
from functools import cache

Span = tuple[int, int]
LOCAL = 64  # characters before the @ (RFC 5321, 4.5.3.1.1)
LOCAL_REVERSED = re.compile(r"[\w%+](?:[\w.%+'~-]*[\w+])?")  # matched backwards from the @; it ends at the local part's first character
DOMAIN = re.compile(r"@((?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}((?:xn--)?[^\W_]{2,24}))(?![\w@])")
AT = ("(at)", "[at]", "{at}", "(AT)", "[AT]", " at ]", " at )")
SPELLED = re.compile(r" ?[\[({] ?at ?[\])}] ?([\w-]{1,63}(?: ?(?:\.|[\[({] ?dot ?[\])}]) ?[\w-]{1,63}){1,4})\b", re.IGNORECASE)
# Names that no person has, and that tools write before an @: git@github.com:owner/project.
TOOLS = frozenset({"git", "hg", "svn"})
EXAMPLE = re.compile(r"(?:^|\.)(?:example\.(?:com|net|org|edu)|example|test|invalid|localhost)$", re.IGNORECASE)  # RFC 2606

IPV4 = re.compile(r"[0-9](?<![\w.][0-9])[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\.?\w)")
IPV4_SIGN = re.compile(r"\.[0-9]{1,3}\.[0-9]")  # starts with a letter that the engine skips to; IPV4 must look at every digit
IPV6_SIGN = re.compile(r":(?=[0-9a-fA-F]{0,4}:[0-9a-fA-F]{0,4}:)")  # three colons, which std::vector and 12:30:45 have not
HEX = frozenset("0123456789abcdefABCDEF")
HEX_RUN = re.compile(r"[0-9a-fA-F:]+")
VERSION = re.compile(
    r"(?:[<>=~!^]=?\s*|[a-z]-|\b(?:versions?|ver\.?|v\.?|release[sd]?|build|firmware|section|chapter|clause|§|upgrade[sd]? to)\W{0,3})\Z",
    re.IGNORECASE,
)
ASSIGNED = re.compile(r"\w\s*=\s*\Z")  # host=1.2.3.4 is an address, >=1.2.3.4 is a version
SPOKEN_OF = re.compile(r"\b(?:ip(?:v4)?|address(?:es)?|hosts?|servers?|clients?|from|ping|peer|gateway|nameserver)\b", re.IGNORECASE)
SMALL = 32  # four numbers below it are a version or a section rather than an address: one address in 4096 is such
NEAR = 24  # characters before a number that may say what it is


def emails(text: str, examples: bool = True) -> Iterator[Span]:
    """E-mail addresses whose last label is a top-level domain. `examples`: also those of example.com and its like (RFC 2606)."""
    if "@" in text:
        for match in DOMAIN.finditer(text):
            at = match.start()
            local = LOCAL_REVERSED.match(text[max(0, at - LOCAL) : at][::-1])
            if local and local[0][::-1] not in TOOLS and is_domain(match[2]) and (examples or not EXAMPLE.search(match[1])):
                yield at - local.end(), match.end()
    if any(sign in text for sign in AT):
        for match in SPELLED.finditer(text):
            local = LOCAL_REVERSED.match(text[max(0, match.start() - LOCAL) : match.start()][::-1])
            if local and is_domain(re.split(r"\W+", match[1])[-1]):
                yield match.start() - local.end(), match.end()


def ips(text: str) -> Iterator[Span]:
    """Public IP addresses, version 4 and 6. Private, loopback and documentation ranges name nobody and are left."""
    for match in IPV4.finditer(text) if IPV4_SIGN.search(text) else ():
        near = max(0, match.start() - NEAR)
        if VERSION.search(text, near, match.start()) and not ASSIGNED.search(text, near, match.start()):
            continue
        if all(int(part) < SMALL for part in match[0].split(".")) and not SPOKEN_OF.search(text, near, match.start()):
            continue
        if _public(match[0]):
            yield match.span()
    yield from _version6(text)


def _version6(text: str) -> Iterator[Span]:
    done = 0
    for sign in IPV6_SIGN.finditer(text):
        first = start = sign.start()
        if first < done:
            continue
        while start > max(done, first - 4) and text[start - 1] in HEX:
            start -= 1
        run = HEX_RUN.match(text, start)
        done = run.end() if run else first + 1
        end = done - 1 if text[done - 1] == ":" != text[done - 2] else done
        inside = (text[start - 1 : start] + text[done : done + 1]).replace("_", "a")
        # Short forms only from the range that is given out (2000::/3): `dead::beef` is C++ or a joke.
        likely = text.count(":", start, end) == 7 or text[start] in "23"
        if likely and end - start < 40 and not any(map(str.isalnum, inside)) and _public(text[start:end]):
            yield start, end


def is_domain(label: str) -> bool:
    """Whether this is a top-level domain that exists."""
    return label.lower() in _top_level()


@cache
def _top_level() -> frozenset[str]:
    # The list that comes with the package: no network, the same on every machine with this version.
    import tldextract

    suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None).tlds
    names = {suffix.rpartition(".")[2] for suffix in suffixes}
    return frozenset(names | {name.encode("idna").decode() for name in names if not name.isascii()})


def _public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast
