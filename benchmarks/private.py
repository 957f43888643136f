"""Private data: what is found of what is marked, what is found where nothing is, and at which speed, beside other tools.

    python benchmarks/private.py [--data ../shared/data] [--peers PYTHON]

Marked: the synthetic sentences of presidio-research. Unmarked: the Brown corpus, WikiText and the modules of this Python installation
(each finding there is counted as a false alarm, also where it is a real address). Speed is CPU time over documents of
10 000 characters. PYTHON is an interpreter that has datatrove (PIIFormatter) or presidio-analyzer or phonenumbers: what it has is run.
"""

import argparse
import gzip
import json
import random
import re
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

Span = tuple[int, int, str]
KINDS = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "IP_ADDRESS": "ip",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "US_SSN": "ssn",
}


def bessemer() -> Callable[[str], Iterable[Span]]:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from bessemer.corpus.private.mask import find

    return find


def datatrove() -> Callable[[str], Iterable[Span]]:
    from datatrove.pipeline.formatters.pii import PIIFormatter

    formatter = PIIFormatter()

    def find(text: str) -> Iterable[Span]:
        for kind, replacer in (("email", formatter.emails_replacer), ("ip", formatter.ip_replacer)):
            for match in replacer.regex.finditer(text):
                if not replacer.validator or replacer.validator(match[0]):
                    yield *match.span(), kind

    return find


def presidio() -> Callable[[str], Iterable[Span]]:
    from presidio_analyzer import predefined_recognizers as known

    names = ("Email", "Phone", "Ip", "CreditCard", "Iban", "UsSsn")
    recognizers = [getattr(known, f"{name}Recognizer")() for name in names]

    def find(text: str) -> Iterable[Span]:
        for one in recognizers:
            for result in one.analyze(text, one.supported_entities, None):
                yield result.start, result.end, KINDS[result.entity_type]

    return find


def libphonenumber() -> Callable[[str], Iterable[Span]]:
    from phonenumbers import PhoneNumberMatcher

    return lambda text: ((match.start, match.end, "phone") for match in PhoneNumberMatcher(text, "US"))


TOOLS = {"bessemer": bessemer, "datatrove": datatrove, "presidio": presidio, "phonenumbers (region US)": libphonenumber}


def marked(data: Path) -> list[tuple[str, list[Span]]]:
    with gzip.open(data / "web/pii/synth_dataset_v2.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(r["text"], [(s["start_position"], s["end_position"], KINDS.get(s["entity_type"], "other")) for s in r["spans"]]) for r in rows]


def plain(data: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(data / "text/brown/brown_plain.zip") as archive:
        brown = " ".join(archive.read(name).decode() for name in sorted(archive.namelist()) if not name.endswith("/"))
    wiki = "".join((data / "text/wikitext-2" / name).read_text(encoding="utf-8") for name in ("test.txt", "valid.txt"))
    pages = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(Path(json.__file__).parent.parent.glob("*.py"))]
    cut = {name: [text[i : i + 10_000] for i in range(0, len(text), 10_000)] for name, text in (("brown", brown), ("wikitext", wiki))}
    return cut | {"python": pages}


def report(name: str, find: Callable[[str], Iterable[Span]], data: Path) -> None:
    """Print what one tool finds. A marked span is found where a finding of its kind overlaps it; a finding is right likewise."""
    hits, wanted, right, found = Counter(), Counter(), Counter(), Counter()
    for text, spans in marked(data):
        mine = list(find(text))
        for start, end, kind in spans:
            wanted[kind] += 1
            hits[kind] += any(kind == k and start < e and s < end for s, e, k in mine)
        for start, end, kind in mine:
            found[kind] += 1
            right[kind] += any(kind == k and start < e and s < end for s, e, k in spans)
    print(f"\n{name}\n{'kind':8} {'marked':>7} {'recall':>7} {'precision':>10}")
    for kind in KINDS.values():
        if found[kind]:
            print(f"{kind:8} {wanted[kind]:7} {hits[kind] / wanted[kind]:7.3f} {right[kind] / found[kind]:10.3f}")
    for place, texts in plain(data).items():
        alarms = Counter(kind for text in texts for *_, kind in find(text))
        size = sum(map(len, texts))
        print(f"per million characters of {place}: {json.dumps({k: round(n / size * 1e6, 2) for k, n in sorted(alarms.items())})}")
    pages = [text for texts in plain(data).values() for text in texts]
    random.Random(0).shuffle(pages)
    text = re.sub(r"\s+\n", "\n", "\n".join(pages))[:5_000_000]
    began = time.process_time()
    for i in range(0, len(text), 10_000):
        list(find(text[i : i + 10_000]))
    print(f"{len(text) / 10_000 / (time.process_time() - began):.0f} documents of 10 000 characters a second on one core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peers", help="the Python interpreter that has the other tools")
    parser.add_argument("--tool", choices=TOOLS, default="bessemer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        find = TOOLS[args.tool]()
    except ImportError as error:
        print(f"\n{args.tool}: not run ({error})")
        return
    report(args.tool, find, args.data)
    for name in list(TOOLS)[1:] if args.peers else ():
        subprocess.run([args.peers, __file__, "--data", str(args.data), "--tool", name], check=True)


if __name__ == "__main__":
    main()
