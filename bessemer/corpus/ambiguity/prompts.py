"""Prompts that ask the same: equal but for case and spacing, or equal in all words that carry meaning, but for one slip of the pen.

Two long prompts may share nearly all their words and still ask different things (one passage, two questions), so near-identity is not
a share of n-grams here. Politeness, articles and "what is" are taken off; numbers, names, negations, operators and the order of words
stay, as do identifiers (json.dumps, ru_idrss) letter for letter. What is left must be equal, but for a single misspelt word. One more
word among at least ten makes prompts similar only: it may ask for something else.

Such pairs are found without comparing all prompts: those that agree once a word is taken out of each agree in the sum of the hashes of
their other words (the deletion neighbourhood of Mor and Fraenkel 1982).
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from bessemer.corpus.contamination.words import words

EDGE = " \t\n.,;:!?\"'`*_-–—…"
POLITE = re.compile(
    r"^(?:(?:hey|hi|hello|ok|okay|so|well|please|kindly|now|question|q|prompt|instruction|"
    r"(?:can|could|would|will) you(?: please)?|(?:please )?(?:tell|inform) me|let me know|do you (?:happen to )?know|"
    r"i(?:'d| would)? (?:like|want|need) to know|i(?:'m| am) (?:wondering|curious)(?: about)?|i wonder|i have a question|"
    r"(?:please )?answer (?:this|the following|the|my)(?: question)?|quick question)\b[\s,.:!-]*)+"
)
THANKS = re.compile(r"[\s,.!?]*(?:\b(?:please|thanks|thank you|many thanks|answer)\b[\s.!:]*)+$")
TAIL = 100  # characters at the end of a prompt that thanks are looked for in
FILLERS = frozenset(b"a an the of is are do does what whats s re exactly actually just".split())
CONTRACTED = {b"whos": b"who", b"wheres": b"where", b"whens": b"when", b"hows": b"how", b"whys": b"why"}
# Identifiers and paths; signs that are no punctuation. Possessive, and never from within a word, so that time is linear.
EXACT = re.compile(r"(?<![^\W_])[^\W_]++(?:[._:/@]+[^\W_]++)+|[+*/=<>^%|&\\{}\[\]~]|(?<![^\W\d_])-|-(?![^\W\d_])")
NEGATIONS = frozenset(
    b"no not never none without except neither nor cannot cant dont doesnt isnt arent wasnt werent didnt wont false incorrect".split()
)
LONG = 10  # content words from which one more or less is no other question
LETTERS = 5  # of a word that may be misspelt
NEIGHBOURS = 4  # words next to it in the alphabet that a word is compared with


@dataclass(frozen=True)
class Prompt:
    """What a prompt asks: its words that carry meaning, and what must be equal letter for letter, both in order."""

    content: tuple[bytes, ...]
    exact: tuple[str, ...]


def same(text: str) -> str:
    """A text in the form in which equal prompts are equal: Unicode's compatibility form, case, white space and edges levelled."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(EDGE)


def read(key: str) -> Prompt:
    """The content of a prompt in its `same` form."""
    bare = POLITE.sub("", key)
    if thanks := THANKS.search(bare, max(0, len(bare) - TAIL)):
        bare = bare[: thanks.start()]
    said = (CONTRACTED.get(word, word) for word in words(bare))
    return Prompt(tuple(word for word in said if word not in FILLERS), tuple(EXACT.findall(bare)))


def groups(keys: Sequence[str]) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Numbers of distinct prompts (given in their `same` form) that ask the same, group by group, each prompt in one group; and the pairs
    of groups that are similar."""
    prompts = [read(key) for key in keys]
    leader, similar = list(range(len(keys))), []

    def root(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for surely, a, b in _pairs(prompts):
        if surely:
            low, high = sorted((root(a), root(b)))
            leader[high] = low
        else:
            similar.append((a, b))
    found = defaultdict(list)
    for number in range(len(keys)):
        found[root(number)].append(number)
    place = {first: place for place, first in enumerate(found)}
    return list(found.values()), sorted({(min(x, y), max(x, y)) for a, b in similar for x, y in [(place[root(a)], place[root(b)])] if x != y})


def _pairs(prompts: Sequence[Prompt]) -> Iterator[tuple[bool, int, int]]:
    """(whether surely, one, the other) of prompts that ask the same: at least one way through each group of them."""
    first: dict[Prompt, int] = {}
    for number, prompt in enumerate(prompts):
        if prompt.content and first.setdefault(prompt, number) != number:
            yield True, first[prompt], number
    # What is left are distinct contents. Each is filed under the sum of its words' hashes, whole and without each of its words.
    distinct = [number for number in first.values() if len(prompts[number].content) > 1]
    hashes: dict[bytes, int] = {}
    totals: dict[int, list[int]] = defaultdict(list)
    keys, owners, removed = [], [], []
    for number in distinct:
        content = prompts[number].content
        sums = [hashes.setdefault(word, xxhash.xxh3_64_intdigest(word)) for word in content]
        total = sum(sums) % 2**64
        totals[total].append(number)
        for word, value in dict(zip(content, sums, strict=True)).items():
            keys.append((total - value) % 2**64)
            owners.append(number)
            removed.append(word)
    for places in _alike(keys):
        members = [(removed[i], owners[i]) for i in places]
        # Where many prompts differ in one word only, that word is what they ask about.
        template = len(members) > 2
        if len(members) == 1:
            word, number = members[0]
            yield from (
                (False, other, number) for other in totals.get(keys[places[0]], ())[:NEIGHBOURS] if _one_more(prompts[other], prompts[number], word)
            )
        for spelt in (sorted(members), sorted(members, key=lambda member: (member[0][::-1], member[1]))):
            for i, (word, number) in enumerate(spelt):
                for near, other in spelt[i + 1 : i + 1 + NEIGHBOURS]:
                    if misspelt(word, near, exchanged=template) and _aligned(prompts[number], prompts[other], word, near):
                        yield True, number, other


def _alike(keys: Sequence[int]) -> Iterator[list[int]]:
    """The places of each distinct key, in order."""
    array = np.array(keys, np.uint64)
    order = np.argsort(array, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(array[order])) + 1):
        if len(places):
            yield places.tolist()


def _one_more(short: Prompt, long: Prompt, word: bytes) -> bool:
    """Whether the longer prompt only has `word` more, once, and that is neither a number nor a negation."""
    if len(short.content) < LONG or word in NEGATIONS or digits(word) or short.exact != long.exact:
        return False
    at = long.content.index(word)
    return long.content[:at] + long.content[at + 1 :] == short.content


def _aligned(a: Prompt, b: Prompt, word: bytes, near: bytes) -> bool:
    return a.exact == b.exact and tuple(near if w == word else w for w in a.content) == b.content


def misspelt(a: bytes, b: bytes, exchanged: bool = False) -> bool:
    """Whether two different words are one word and a slip: two letters `exchanged`, or (unless only that is looked for) one letter more,
    less or other than it should be; never the first."""
    x, y = a.decode(), b.decode()
    if min(len(x), len(y)) < LETTERS or abs(len(x) - len(y)) > 1 or x[0] != y[0] or digits(a + b) or {a, b} & NEGATIONS:
        return False
    i = next((i for i, pair in enumerate(zip(x, y, strict=False)) if pair[0] != pair[1]), min(len(x), len(y)))
    if x[i : i + 2] == y[i : i + 2][::-1] and x[i + 2 :] == y[i + 2 :]:
        return True
    return not exchanged and (x[i + 1 :] == y[i + 1 :] or x[i + 1 :] == y[i:] or x[i:] == y[i + 1 :])


def digits(word: bytes) -> bool:
    """Whether a word has a digit in it."""
    return any(char.isdigit() for char in word.decode())
