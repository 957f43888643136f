"""Rows that ask the same and are answered differently: found, judged, and resolved."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from bessemer.corpus.ambiguity import answers, prompts
from bessemer.corpus.ambiguity.answers import Claim

Row = dict[str, Any]
SAME, NEAR = "same prompt, contradictory answers", "near-identical prompts, contradictory answers"
SIMILAR = "similar prompts, contradictory answers"  # shown and left alone: a word more may ask for something else
SEVERAL, REPEATED = "several answers", "duplicate rows"
MANY = 16  # distinct answers to one prompt: with more it is open, whatever it says; so comparing answers stays bounded
SHOWN = 50  # rows of a group that are shown
CREATE = (
    r"write|generate|create|construct|compose|form|build|make|produce|use|suggest|invent|imagine|brainstorm|propose|recommend|draft|design|describe|paraphrase|rewrite|rephrase|"
    r"reword|summari[sz]e|translate|continue|complete|edit|improve|come up with|make up|think of|tell me (?:a|an|some|about)|"
    r"(?:give|name|list|provide|pick|choose|select|find|tell)(?: me| us)? (?:an?|any|some|one|two|three|four|five|six|\d+)\b|"
    r"an? (?:possible|example|sample|title|headline|question|hashtag|slogan|joke|poem|story)\b"
)
# A task of making something, at the beginning or end of a prompt; small talk.
OPEN = re.compile(rf"^\W*(?:\w+\W+){{0,3}}?(?:{CREATE})|(?:{CREATE})[^.?!\n]{{0,80}}[.?!:\s]*$", re.IGNORECASE)
# A guess at what a text does not say has several good answers too.
GUESS = re.compile(r"\b(?:what|why|how|who|where|when|which)\b[^.?!\n]*\b(?:probably|(?<!most )likely|may|might|could|possibly)\b", re.IGNORECASE)
GREETING = re.compile(r"(?:hello|hi|hey|thanks|thank you|good (?:morning|evening|night|day)|how are you|bye|goodbye|ok|okay)\b.{0,40}", re.IGNORECASE)


@dataclass(frozen=True)
class AmbiguityConfig:
    action: Literal["majority", "exclude", "first", "report"] = "majority"
    """of contradictory rows, keep those with the commonest answer (none where two are as common); none; those that agree with the first; all"""
    duplicates: bool = True  # keep one of the rows with the same prompt and the same answer (not with action "report")

    version: ClassVar[int] = 2


@dataclass(frozen=True)
class Group:
    """Rows of one prompt or of near-identical ones, in order."""

    kind: str  # "" where nothing is wrong
    rows: list[int]  # numbers
    answer: list[int]  # of each row: the number of its answer; answers that agree share one
    kept: list[bool]


def resolve(pairs: Sequence[tuple[str, str]], cfg: AmbiguityConfig) -> list[Group]:
    """The groups of (prompt, answer) pairs in which something is wrong or worth a look, in order of their first rows."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for number, (prompt, _) in enumerate(pairs):
        by_key[prompts.same(prompt)].append(number)
    keys = list(by_key)
    members, similar = prompts.groups(keys)
    asked = [{keys[m]: by_key[keys[m]] for m in group} for group in members]
    found = [_judged(pairs, group, cfg) for group in asked if sum(map(len, group.values())) > 1]
    removed = {number for group in found for number, kept in zip(group.rows, group.kept, strict=True) if not kept}
    for a, b in similar:
        left = {key: [number for number in own if number not in removed] for key, own in (asked[a] | asked[b]).items()}
        group = _judged(pairs, {key: own for key, own in left.items() if own}, AmbiguityConfig("report"))
        if group.kind == NEAR:
            found.append(replace(group, kind=SIMILAR))
    return sorted((group for group in found if group.kind), key=lambda group: (group.rows[0], group.kind))


def _judged(pairs: Sequence[tuple[str, str]], by_key: dict[str, list[int]], cfg: AmbiguityConfig) -> Group:
    rows = sorted(number for own in by_key.values() for number in own)
    key_of = {number: key for key, own in by_key.items() for number in own}
    said = [prompts.same(pairs[number][1]) for number in rows]
    distinct = list(dict.fromkeys(said))
    leader, contradiction = _agreement(distinct) if len(distinct) <= MANY else (list(range(len(distinct))), False)
    number_of = dict(zip(distinct, leader, strict=True))
    answer = [number_of[text] for text in said]
    kept, kind = [True] * len(rows), SEVERAL if len(set(answer)) > 1 else ""
    if contradiction and not any(is_open(pairs[own[0]][0]) for own in by_key.values()):
        kept, kind = _kept(answer, cfg), SAME if _crossed(rows, answer, key_of) else NEAR
    seen: set[tuple[str, str]] = set()
    for place, number in enumerate(rows):
        if (key_of[number], said[place]) in seen:
            kind = kind or REPEATED
            kept[place] = kept[place] and (not cfg.duplicates or cfg.action == "report")
        elif kept[place]:
            seen.add((key_of[number], said[place]))
    return Group(kind, rows, answer, kept)


def _agreement(distinct: Sequence[str]) -> tuple[list[int], bool]:
    """For each answer the first one that it agrees with, and whether any two contradict each other."""
    claims: list[Claim] = [answers.claim(text) for text in distinct]
    leader = list(range(len(claims)))
    contradiction = False
    for b in range(len(claims)):
        for a in range(b):
            verdict = answers.compare(claims[a], claims[b])
            contradiction |= verdict == "contradict"
            if verdict == "agree" and leader[b] == b:
                leader[b] = leader[a]
    return leader, contradiction


def _crossed(rows: Sequence[int], answer: Sequence[int], key_of: dict[int, str]) -> bool:
    """Whether one and the same prompt has several answers, not only one that is nearly the same."""
    by_key = defaultdict(set)
    for number, value in zip(rows, answer, strict=True):
        by_key[key_of[number]].add(value)
    return any(len(values) > 1 for values in by_key.values())


def _kept(answer: Sequence[int], cfg: AmbiguityConfig) -> list[bool]:
    if cfg.action == "report":
        return [True] * len(answer)
    (best, most), *others = Counter(answer).most_common()
    if cfg.action == "first":
        best = answer[0]
    elif cfg.action == "exclude" or (others and others[0][1] == most):
        best = -1
    return [value == best for value in answer]


def is_open(prompt: str) -> bool:
    """Whether a prompt has several good answers by its nature: a thing to make, one of many to name, a guess, small talk."""
    bare = prompt.strip()
    ends = (bare[:200].partition("\n")[0], bare[-200:].rpartition("\n")[2])
    return bool(GREETING.fullmatch(bare) or GUESS.search(bare[-200:])) or any(OPEN.search(end) for end in ends)


def shown(groups: Sequence[Group], rows: Sequence[Row], pairs: Sequence[tuple[str, str]], lines: Sequence[int]) -> Iterator[Row]:
    """Each group as a row of ambiguous.jsonl. `lines` are the numbers of the rows in their file."""
    for group in groups:
        some = [
            {"row": lines[number], "id": rows[number].get("id"), "prompt": pairs[number][0], "answer": pairs[number][1], "kept": kept}
            for number, kept in list(zip(group.rows, group.kept, strict=True))[:SHOWN]
        ]
        yield {"kind": group.kind, "count": len(group.rows), "answers": len(set(group.answer)), "kept": sum(group.kept), "rows": some}
