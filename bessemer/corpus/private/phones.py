"""Telephone numbers in text, of any country, written as people write them.

A number is taken for what its shape says (an international prefix, a trunk zero, an area code in brackets, North America's 3-3-4),
or, where digits alone say nothing, for what the words beside it say. Nothing tells `358 0594` from a quantity but `Phone:`.
"""

import re
from collections.abc import Iterable, Iterator

Span = tuple[int, int]
GAP = r"[ ()./\-\u00a0\u2009\u202f\u2010-\u2013]"
# Seven to seventeen digits, little between them. Digits and gaps exclude each other and nothing follows: no backtracking.
CANDIDATE = re.compile(rf"[+(0-9](?<![\w@=#&/\\$€£-][+(0-9])\+?(?:{GAP}{{0,3}}[0-9]){{6,17}}\)?")
EXTENSION = re.compile(r" ?(?:x|ext\.?|extension|#) ?[0-9]{1,6}\b", re.IGNORECASE)
BEFORE = re.compile(r"(?:[0-9][ .,:/)]{0,2}|%[0-9A-F]{0,2})\Z")  # a longer row of numbers, a decimal
AFTER = re.compile(r"\w|[.,:/-][0-9A-Za-z]|[ .]{0,2}[0-9]| ?[%=*×^]")
DATE = re.compile(
    r"\(? ?(?:(?:1[5-9]|20)[0-9]{2}([-./ ])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12][0-9]|3[01])(?![0-9])"
    r"|(?:0?[1-9]|[12][0-9]|3[01])([-./ ])(?:0?[1-9]|[12][0-9]|3[01])\2(?:1[5-9]|20)[0-9]{2}(?![0-9])"
    r"|(?:1[5-9]|20)[0-9]{2}\)?[-–/ ]{1,3}(?:1[5-9]|20)[0-9]{2}(?![0-9]))"
)
CODE = (  # country calling codes (ITU-T E.164)
    r"(?:1|7|2(?:0|7|1[1236-8]|[2-5][0-9]|6[0-9]|9[01789])|3(?:[0-469]|5[0-9]|7[0-9]|8[0-35-79])|4(?:[013-9]|2[0-9])|5(?:[1-8]|0[0-9]|9[0-9])"
    r"|6(?:[0-6]|7[0-9]|8[0-9]|9[0-2])|8(?:[1246]|0[08]|5[0-9]|7[08]|8[0-8])|9(?:[0-58]|6[0-9]|7[0-9]|9[2-8]))"
)
GROUP = r"[ .\-/\u00a0\u2009\u202f\u2010-\u2013]"
SHAPES = [  # with the numbers of digits they may have
    (re.compile(pattern), range(least, most + 1))
    for pattern, least, most in (
        (rf"\(?\+\(?{CODE}(?:[^0-9]|[0-9]+[^0-9.]).*[0-9]{{2}}", 8, 15),
        (rf"\+{CODE}[0-9]{{7,}}", 10, 15),
        (rf"(?:00|011){GROUP}?{CODE}{GROUP}[^.]*|00{CODE}[1-9].*[ -].*", 10, 17),
        (rf"(?:1{GROUP}?)?(?:\([2-9][0-9]{{2}}\) ?{GROUP}?|[2-9][0-9]{{2}}([-. ]))[0-9]{{3}}[-. ][0-9]{{4}}", 10, 11),
        (rf"\(0?[0-9]{{1,5}}\) ?{GROUP}?[0-9]{{2,5}}(?:[ -.][0-9]{{2,5}}){{1,3}}", 8, 12),
        (r"\(0[1-9][0-9]{0,4}\) ?[0-9]{4,9}", 8, 12),
        (r"0[1-9][0-9]{0,4}([ -])[0-9]{2,8}(?:[ -][0-9]{2,5}){0,4}", 9, 12),
        (r"0[1-9][0-9]{0,4}[/][ ]?[0-9]{2,9}(?:[ -][0-9]{2,5}){0,3}", 8, 13),
        (r"0[1-9](?:([ .-])[0-9]{2})(?:\1[0-9]{2}){3}", 10, 10),
        (r"8[ -]?\(?[3489][0-9]{2}\)?[ -][0-9]{3}[ -][0-9]{2}[ -][0-9]{2}", 11, 11),
    )
]
NOUN = re.compile(  # a word for a telephone, somewhere before the number
    r"(?:\b(?:phones?|telephones?|tele?|tél|tlf|teléfono|telefono|téléphone|telefon\w*|mobiles?|mobil|móvil|movil|celular|cellulare|cell|sim|cellphone"
    r"|portable|handy|fax|hotline|helpline|landline|voicemail|pager|whatsapp|viber|telegram|sms|toll.?free|freephone|ph|rufnummer|puh|gsm"
    r"|(?:desk|office|home|work|direct|emergency)\s?(?:[:.#]|number|phone|line)|(?:my|his|her|their|your|our|new|contact) number)\b"
    r"|(?:^|[\n|,;•(])\s*[TMPF]\s?[:.]|☎|📞|📱|✆|\bтел|моб|номер|電話|电话|手机|携帯|전화|τηλ|هاتف|फ़ोन)",
    re.IGNORECASE,
)
VERB = re.compile(  # an invitation to call, right before it: "call me on", "text the driver at"
    r"\b(?:call(?:s|ed|ing)?|dial(?:s|ed|ing)?|ring|rang|rings|contact(?:ed|ing)?|text(?:ed|ing)?|reach(?:ed|able|ing)?|messag\w+|answer(?:s|ed|ing)?"
    r"|pick(?:s|ed|ing)? up|anruf\w*|appele[rz]|llam\w+|chiama\w*)(?: [^\W\d_]+){0,4}:? ?\Z",
    re.IGNORECASE,
)
OTHER = re.compile(
    r"\b(?:orders?|accounts?|acct|invoice|ref(?:erence)?|ids?|isbn|issn|pmid|doi|oclc|licen[cs]e|zip|postal|postcode|serial|ticket|case|booking"
    r"|bill|pages?|pp|lines?|bytes?|version|policy|passport|routing|iban|swift|ssn|card|patent|no\. of|population|sum|price|code|pin|port|box)\b",
    re.IGNORECASE,
)
DECIMAL = re.compile(r"(?![0-9]{3,4}\.[0-9]{4}\Z)\+?[0-9]+\.[0-9]+")
UNIT = re.compile(
    r" ?(?:[kMGT]?i?B\b|bytes?|bits?|entries|items|records|rows|people|users|times|years|dollars|euros?|[ck]?m\b|miles|tons|copies|pages|words)\b"
)
AFTERWARDS = re.compile(
    r"[ \-–(,:]{0,3}(?:office|fax|mobile|cell|home|work|desk|direct|phone|tel|landline|mob)\b\W*?(?:$|[\n.,;)|\\])", re.IGNORECASE
)
NEAR, WEAK = 48, range(7, 14)  # characters that are looked at on each side; digits that a number needs where only words speak for it
CHAIN = 12  # characters between two numbers of a list


def phones(text: str, where: Iterable[Span]) -> Iterator[Span]:
    """Telephone numbers with their extensions, in the parts of the text that have digits enough (`numbers.windows`)."""
    last = -NEAR
    for match in (match for begin, stop in where for match in CANDIDATE.finditer(text, begin, stop)):
        start, end = match.span()
        number = match[0]
        if number[-1] == ")" and "(" not in number:
            end, number = end - 1, number[:-1]
        extension = EXTENSION.match(text, end)
        end = extension.end() if extension else end
        named_after = bool(AFTERWARDS.match(text, end, end + NEAR))
        if DATE.match(number) or DECIMAL.fullmatch(number) or (AFTER.match(text, end) and not named_after):
            continue
        if number[0] not in "+(" and BEFORE.search(text, max(0, start - 4), start):
            continue
        digits = sum(map(str.isdigit, number))
        shaped = any(digits in allowed and shape.fullmatch(number) for shape, allowed in SHAPES)
        if shaped or (digits in WEAK and (named_after or start - last <= CHAIN or _spoken_of(text, start, end))):
            last = end
            yield start, end


def _spoken_of(text: str, start: int, end: int) -> bool:
    """Whether the words before text[start:end] say that it is a telephone number; the nearest ones count."""
    if UNIT.match(text, end) or DATE.search(text, start, end):
        return False
    near = max(0, start - NEAR)
    cue = max((match.end() for match in NOUN.finditer(text, near, start)), default=-1)
    if VERB.search(text, near, start):
        cue = start
    return cue > max((match.end() for match in OTHER.finditer(text, near, start)), default=-1)
