"""Numbers that carry a check of their own: payment cards (Luhn), IBAN (mod 97), US social security numbers."""

import re
from collections.abc import Iterable, Iterator

Span = tuple[int, int]
CARD = re.compile(
    r"[0-9](?<![\w.,+-][0-9])"
    r"(?:[0-9]{11,18}|[0-9]{3}(?:([ -])[0-9]{4}(?:\1[0-9]{4}){1,2}(?:\1[0-9]{1,4})?|([ -])[0-9]{6}\2[0-9]{4,5}))(?![\w-]|[.,][0-9])"
)
# What the first digits and the length say (ISO/IEC 7812; the issuers' published ranges).
ISSUERS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}|3(?:0[0-59]|[689][0-9])[0-9]{11,16}"  # American Express, Diners Club
    r"|6(?:011|4[4-9][0-9]|5[0-9]{2}|2[0-9]{2})[0-9]{12,15}|35[0-9]{14}|(?:1800|2131)[0-9]{11}"  # Discover, UnionPay, JCB
    r"|(?:50(?:18|20|38)|5[6-8][0-9]{2}|6304|6759|676[1-3]|0604|6390)[0-9]{8,15}"  # Maestro
)
SPEAKS_OF_CARD = re.compile(
    r"\b(?:cards?|credit|debit|visa|maestro|mastercard|amex|american express|diners|discover|jcb|cc|pay|paid|payment"
    r"|carte|karte|tarjeta|carta|cartão)\b",
    re.IGNORECASE,
)
IN_ADDRESS = "/=#&?%_"  # before a number: it is part of a URL

SSN = re.compile(r"[0-9](?<![\w.-][0-9])[0-9]{2}([- ]?)[0-9]{2}\1[0-9]{4}(?![\w-]|[.,][0-9])")
SPEAKS_OF_SSN = re.compile(r"\bssn\b|social.?security|\bss ?#", re.IGNORECASE)

IBAN = re.compile(r"[0-9](?<=[A-Za-z]{2}[0-9])(?<!\w[A-Za-z]{2}[0-9])[0-9](?:[ -]?[0-9A-Za-z]{4}){2,7}(?:[ -]?[0-9A-Za-z]{1,3})?")
RUN = re.compile(r"[0-9A-Za-z]+")
SHORTEST = 14  # of an IBAN of a country that is not listed here
# Characters of an IBAN by country (the SWIFT registry).
IBAN_LENGTH = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE BI DJ", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VA",
        25: "LY PT ST", 26: "IS TR", 27: "FR GR IT MC MR SM BJ BF", 28: "AL AZ BY CI CM CY DO GT HU LB NI PL SN SV ML",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
CLUSTER = re.compile(r"([0-9]{36,})|[0-9](?:[^0-9\n]{0,3}[0-9]){6,}")  # no number that is looked for has more digits in a row
MARGIN = 32  # characters around them: of an IBAN, up to 20 may be letters
NEAR = 80  # characters before a number that may say what it is


def windows(text: str) -> list[Span]:
    """The parts of a text that any number looked for here, or a telephone number, may stand in: with seven digits close together."""
    found: list[Span] = []
    for match in CLUSTER.finditer(text):
        if match[1]:
            continue
        start, end = max(0, match.start() - MARGIN), min(len(text), match.end() + MARGIN)
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
    return found


def cards(text: str, where: Iterable[Span]) -> Iterator[Span]:
    """Payment card numbers: a right check digit, and a large issuer's range and length or words that speak of a card."""
    for match in _matches(CARD, text, where):
        digits = re.sub(r"[ -]", "", match[0])
        if not 12 <= len(digits) <= 19 or len(set(digits)) == 1 or not luhn(digits):
            continue
        spoken_of = bool(SPEAKS_OF_CARD.search(text, max(0, match.start() - NEAR), match.start()))
        in_address = match.start() and text[match.start() - 1] in IN_ADDRESS
        if spoken_of or (ISSUERS.fullmatch(digits) and not in_address):
            yield match.span()


def ibans(text: str, where: Iterable[Span]) -> Iterator[Span]:
    """International bank account numbers with right check digits: of the country's length, or in capitals and one piece."""
    for match in _matches(IBAN, text, where):
        start = match.start() - 2
        length = IBAN_LENGTH.get(text[start : start + 2].upper(), 0)
        whole = RUN.match(text, start, match.end())
        if whole and len(whole[0]) != length and len(whole[0]) >= SHORTEST and whole[0].isupper():
            length = len(whole[0])
        end, seen = start, 0
        while end < match.end() and seen < length:
            seen += text[end].isalnum()
            end += 1
        if length and seen == length and not text[end : end + 1].isalnum() and mod97(re.sub(r"[ -]", "", text[start:end])) == 1:
            yield start, end


def ssns(text: str, where: Iterable[Span]) -> Iterator[Span]:
    """US social security numbers that may have been given out: 123-45-6789 anywhere, other spellings where one is spoken of."""
    for match in _matches(SSN, text, where):
        digits = re.sub(r"[ -]", "", match[0])
        area, group, serial = digits[:3], digits[3:5], digits[5:]
        if area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000":
            continue
        if match[1] == "-" or SPEAKS_OF_SSN.search(text, max(0, match.start() - NEAR), match.start()):
            yield match.span()


def _matches(pattern: re.Pattern[str], text: str, where: Iterable[Span]) -> Iterator[re.Match[str]]:
    for start, end in where:
        yield from pattern.finditer(text, start, end)


def luhn(digits: str) -> bool:
    """Whether the last digit checks the others (ISO/IEC 7812-1, annex B): every second one from the right doubled, its digits added."""
    doubled = (sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def mod97(iban: str) -> int:
    """The remainder of ISO 13616: first four characters moved to the end, letters as 10 to 35. Right when 1."""
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97
