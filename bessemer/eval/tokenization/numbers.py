"""How a tokenizer cuts numbers. Arithmetic is learnt more easily where numbers of one length are all cut alike (Singh and Strouse 2024,
"Tokenization counts"): where 1234 is 123|4 but 2024 is one token, a model must learn for each number which of its digits are where.

Worked: of the numbers 10, 11, 12 let 10 be one token and 11 and 12 two. Their splits are 2, 1+1, 1+1, the commonest is 1+1 with a share of
2/3. Of the pairs 10 to 11 and 11 to 12 only the second keeps its split: 1/2. In that pair 1|1 and 1|2 have the first of two tokens in
common, in the other none: (1/2 + 0) / 2 = 1/4 is shared.
"""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bessemer.eval import stats
from bessemer.eval.tokenization.counts import DIGITS, rounded
from bessemer.tokenizer.tokenizer import Tokenizer

LONGEST = 8  # digits
EXHAUSTIVE = 4  # up to so many digits every number is looked at
BEFORE = "is "  # a number in running text follows a space, which some tokenizers join to its first digits
Split = tuple[str, ...]


def drawn(digits: int, count: int, seed: int) -> list[int]:
    """All numbers of so many digits where there are few, else about `count` of them: neighbours n and n + 1, n drawn at random."""
    first, last = 10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1
    if digits <= EXHAUSTIVE:
        return list(range(first, last + 1))
    rng = random.Random(f"{seed} {digits}")
    return sorted({n + step for n in (rng.randrange(first, last) for _ in range(max(1, count // 2))) for step in (0, 1)})


def splits(tokenizer: Tokenizer, numbers: Sequence[int]) -> list[Split]:
    """The digits of each number as its tokens divide them, in running text."""
    begin = len(BEFORE)
    found = []
    encodings = tokenizer.backend.encode_batch([f"{BEFORE}{number}." for number in numbers], add_special_tokens=False)
    for number, encoding in zip(numbers, encodings, strict=True):
        said = str(number)
        spans = sorted({(max(low - begin, 0), min(high - begin, len(said))) for low, high in encoding.offsets})
        found.append(tuple(said[low:high] for low, high in spans if low < high))
    return found


def measure(tokenizer: Tokenizer, count: int, seed: int, confidence: float) -> dict[str, Any]:
    """By number of digits: the commonest split and its share, tokens per number, and what n and n + 1 have in common.

    `one_rule`: whether the length alone decides how a number of up to four digits is cut. `consistent`: the mean over lengths of the share
    of the commonest split.
    """
    rows = []
    for digits in range(1, LONGEST + 1):
        numbers = drawn(digits, count, seed)
        rows.append({"digits": digits, **of_length(numbers, splits(tokenizer, numbers), digits > EXHAUSTIVE, confidence)})
    first = rows[:EXHAUSTIVE]
    consistent = sum(row["share"]["value"] for row in rows) / len(rows)
    return {"one_rule": all(row["share"]["value"] == 1 for row in first), "consistent": round(consistent, DIGITS), "lengths": rows}


def of_length(numbers: Sequence[int], cut: Sequence[Split], sampled: bool, confidence: float) -> dict[str, Any]:
    """The row of one length. Every number looked at leaves nothing to be unsure of: then the interval is the value itself."""
    patterns = Counter("+".join(str(len(part)) for part in split) for split in cut)
    # The commonest; of several equally common ones always the same.
    pattern, often = min(patterns.items(), key=lambda item: (-item[1], item[0]))
    share = stats.proportion(often, len(cut), confidence)
    share = share if sampled else stats.Estimate(share.value, share.value, share.value, share.n)
    pairs = [(cut[i], cut[i + 1]) for i, (n, after) in enumerate(itertools.pairwise(numbers)) if after == n + 1]
    same = [[len(part) for part in one] == [len(part) for part in other] for one, other in pairs]
    kept = [_shared(one, other) for one, other in pairs]
    return {
        "pattern": pattern, "patterns": len(patterns), "share": rounded(share), "tokens": round(sum(map(len, cut)) / len(cut), DIGITS),
        "next_cut_alike": round(sum(same) / len(pairs), DIGITS), "next_shares": round(sum(kept) / len(pairs), DIGITS),
    }  # fmt: skip


def _shared(one: Split, other: Split) -> float:
    """Share of the second number's tokens that stand at the same place in the first."""
    return len(_placed(one) & _placed(other)) / len(other)


def _placed(split: Split) -> set[tuple[int, str]]:
    return set(zip(itertools.accumulate(map(len, split)), split, strict=True))
