"""Words and punctuation marks, as the published filters count them.

Gopher's bounds count words, and datatrove, with which FineWeb was made, finds them with spaCy's rules for English: split at white space, take
marks off both ends of a piece, then split inside it at hyphens, commas and the like. How marks are counted decides many a document, so
the same rules are here in short, without spaCy's long lists of abbreviations and emoticons (benchmarks/filters.py measures
what that costs). Each distinct piece of text is split once and its numbers remembered, which makes it cheap.
"""

import re
import string
import unicodedata

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher's
# What ends a sentence: Unicode's Sentence_Terminal, of the scripts in everyday use.
TERMINAL = tuple(".!?։؝؞؟۔܀܁܂।॥၊။።፧፨។៕᠃᠉‼‽⁇⁈⁉⸮。﹒﹖﹗！．？｡")
# A word of nothing but these is a mark. Bullets and currency signs are not among them, as in datatrove.
MARKS = frozenset(string.punctuation + "—–―”“„’‚…«»《》〈〉（）【】「」『』，、：；％＃＆～∶´►" + "".join(TERMINAL))

QUOTES = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧"
SINGLES = ",:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
SYMBOLS = (
    "©®°¦\u2100-\u214f\u2195-\u21ff\u2300-\u23ff\u2440-\u25b6\u25b8-\u25c0\u25c2-\u266e\u2670-\u27bf\u2b00-\u2bff\ufffc\ufffd\U0001f000-\U0001faff"
)
END = re.escape(SINGLES + QUOTES) + SYMBOLS
MONEY = "$£€¥฿₠-₿"
LOWER, UPPER = "a-zß-öø-ÿа-яёα-ω", "A-ZÀ-ÖØ-ÞА-ЯЁΑ-Ω"
LETTER = r"[^\W\d_]"
UNIT = r"[kdcmµn]?m[²³]?|ha|yd|in|ft|[kmµ]?g|t|lb|oz|m/s|km/h|kmh|mph|h?Pa|mbar|[kmgt]b|[KMGT]B?"

PREFIX = re.compile(rf"\.\.+|…|[§%=—–{END}{MONEY}]|US\$|\+(?!\d)")
# The end of a piece, read backwards from its last character.
SUFFIX = re.compile(
    rf"(?:[…—–{END}]|['’][sS]|(?<=\d)(?:\+|[{MONEY}]|%|{UNIT})|(?<=[\d%²+\-{LOWER}{END}])\.|(?<=[{UPPER}][{UPPER}])\.)\Z",
)
INFIX = re.compile(
    rf"\.\.+|…|[{SYMBOLS}]|(?<=\d)[+\-*^](?=[\d-])|(?<=[{LOWER}{re.escape(QUOTES)}])\.(?=[{UPPER}{re.escape(QUOTES)}])|(?<={LETTER}),(?={LETTER})"
    rf"|(?<=[^\W_])(?:---?|——|[-–—~])(?={LETTER})|(?<=[^\W_])[:<>=/](?={LETTER})"
)
ADDRESS = re.compile(r"(?:[\w+.-]{2,}://)?(?:[^@]+@)?(?:[A-Za-z0-9¡-\uffff][\w-]*\.)+[a-zß-öø-ÿ]{2,63}(?::\d{2,5})?(?:[/?#].*)?", re.DOTALL)
LONGEST = 1 << 11  # characters of a piece in which addresses are looked for


def _known() -> dict[str, list[str]]:
    """Pieces that no rule splits rightly: abbreviations, which keep their full stop, and contractions, also without apostrophe."""
    titles = "Mr. Mrs. Ms. Dr. Prof. St. Mt. Jr. Sr. Inc. Ltd. Co. Corp. Bros. Gen. Gov. Rep. Rev. Sen. Ph.D. No. Messrs. Adm."
    months = "Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec."
    known = {word: [word] for word in f"{titles} {months} a.m. p.m. e.g. i.e. E.g. I.e. vs. v.s. and/or w/o C++ '' 's 'S".split()}
    known |= {f"{letter}.": [f"{letter}."] for letter in string.ascii_lowercase}
    pairs = [("can", "not"), ("gon", "na"), ("got", "ta")]
    verbs = "ai are ca could dare did do does had has have is may might must need ought sha should was were wo would"
    for verb in verbs.split():
        pairs += [(verb, ending) for ending in ("n't", "n’t", "nt")]
    asking = "who what when where why how there that this these those"
    who = {"m": "i", "re": "you we they", "s": f"he she it {asking}", "ll": f"i you he she it we they {asking}"}
    who |= {"d": who["ll"], "ve": f"i you we they could might must should would {asking}"}
    pairs += [(pronoun, mark + ending) for ending, pronouns in who.items() for pronoun in pronouns.split() for mark in ("'", "’", "")]
    for first, second in pairs:
        if first + second not in ("ill", "its", "hell", "shell", "shed", "well", "were"):
            known |= {form + second: [form, second] for form in (first, first.title())}
    return known | {f"{hour}{half}": [str(hour), half] for hour in range(1, 13) for half in ("am", "pm", "a.m.", "p.m.")}


KNOWN = _known()


def split(piece: str) -> list[str]:
    """The words and marks of a piece without white space. Time is linear in its length."""
    if known := KNOWN.get(piece):
        return known
    if piece.isalnum() and not piece[0].isdigit():
        return [piece]
    start, end = 0, len(piece)
    head: list[str] = []
    tail: list[str] = []
    while start < end:
        if end - start < 9 and (known := KNOWN.get(piece[start:end])):
            return head + known + tail[::-1]
        if not piece[start].isalnum() and (prefix := PREFIX.match(piece, start, end)):
            head.append(prefix[0])
            start = prefix.end()
        elif piece.endswith("..", start, end):
            stop = end
            while end > start and piece[end - 1] == ".":
                end -= 1
            tail.append(piece[end:stop])
        elif suffix := SUFFIX.search(piece, max(start, end - 8), end):
            tail.append(suffix[0])
            end = suffix.start()
        else:
            break
    return head + inside(piece[start:end]) + tail[::-1]


def inside(core: str) -> list[str]:
    """What is left between the marks, split where two words are joined, unless it is an address."""
    if core.isalnum() or (len(core) <= LONGEST and "." in core and ADDRESS.fullmatch(core)):
        return [core]
    found, last = [], 0
    for joint in INFIX.finditer(core):
        found += [core[last : joint.start()], joint[0]]
        last = joint.end()
    return [word for word in (*found, core[last:]) if word]


# What is known of a word, as bits; the stop words take the bits above.
LETTERS, PLAIN, ENDS, PUNCTUATION, STOP = 1, 2, 4, 8, 4
STOP_BITS = {word: 1 << STOP + k for k, word in enumerate(STOP_WORDS)}


def bits(word: str) -> int:
    """LETTERS: some character is a letter. PLAIN: not only marks. ENDS: ends a sentence. PUNCTUATION: nothing but punctuation."""
    if word.isalpha():
        return STOP_BITS.get(word, 0) | LETTERS | PLAIN
    found = LETTERS * any(map(str.isalpha, word)) | PLAIN * (not MARKS.issuperset(word)) | ENDS * (word in TERMINAL)
    return found if word[0].isalnum() else found | PUNCTUATION * all(unicodedata.category(mark)[0] == "P" for mark in word)
