"""Ambiguity of instruction data, measured: contradictions planted in real rows in seven ways, and rows that only look like them.

    python benchmarks/ambiguity.py --data ../shared/data

Rows with a closed answer of the T0 slice get a twin whose answer is that of another row of the same template; the prompt is the same,
or changed as people change prompts. Twins that must not be found: the same answer in other words, another number in the prompt, a
negation, another passage's question, and creative tasks of the Alpaca rows with another answer.
"""

import argparse
import json
import random
import time
from collections import Counter, defaultdict
from pathlib import Path

from bessemer.corpus.ambiguity import answers, exchange, resolve
from bessemer.corpus.contamination import items

POLITE = ("Please ", "Can you tell me: ", "Question: ", "Hey, ", "Could you please answer this question: ")


def typo(text: str, random_: random.Random) -> str:
    """A text with two letters of one of its longer words exchanged."""
    tokens = text.split(" ")
    long = [n for n, token in enumerate(tokens) if len(token) >= 7 and token.isalpha() and token[2] != token[3]]
    if not long:
        return text + "?"
    n = random_.choice(long)
    tokens[n] = tokens[n][:2] + tokens[n][3] + tokens[n][2] + tokens[n][4:]
    return " ".join(tokens)


def changed(prompt: str, way: str, random_: random.Random) -> str:
    """A prompt that asks the same."""
    if way == "case and spaces":
        return prompt.replace("\n", "\n\n  ").upper()
    if way == "punctuation":
        return prompt.rstrip(" .?!:") + random_.choice(["", "?", " ...", "!!"])
    if way == "politeness":
        return random_.choice(POLITE) + prompt[0].lower() + prompt[1:]
    if way == "a slip of the pen":
        return typo(prompt, random_)
    if way == "thanks":
        return prompt.rstrip() + " Thank you!"
    if way == "one word more":
        tokens = prompt.split(" ")
        tokens.insert(random_.randrange(1, len(tokens)), "indeed")
        return " ".join(tokens)
    return prompt


WAYS = ("same prompt", "case and spaces", "punctuation", "politeness", "thanks", "a slip of the pen", "one word more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random_ = random.Random(given.seed)
    t0 = items.records(given.data / "sft/t0-slice/t0_slice.jsonl.gz")
    alpaca = items.records(given.data / "sft/llama-factory-demo/alpaca_en_demo.jsonl.gz")
    pairs = [(pair, row["template"]) for row in t0 if (pair := exchange.of(row)) and all(pair)]
    prompts = Counter(prompt for (prompt, _), _ in pairs)
    closed = defaultdict(list)
    for (prompt, answer), template in pairs:
        if answers.claim(answer).kind != "long" and prompts[prompt] == 1 and not resolve.is_open(prompt):
            closed[template].append((prompt, answer))
    pool = [(prompt, answer, template) for template in sorted(closed) for prompt, answer in closed[template]]
    rows = [pair for pair, _ in pairs]
    truth: dict[int, str] = {}
    random_.shuffle(pool)
    for number, (prompt, answer, template) in enumerate(pool[:700]):
        others = [other for _, other in closed[template] if answers.compare(answers.claim(answer), answers.claim(other)) == "contradict"]
        if others:
            truth[len(rows)] = WAYS[number % len(WAYS)]
            rows.append((changed(prompt, WAYS[number % len(WAYS)], random_), random_.choice(others)))
    for prompt, answer, _ in pool[700:800]:
        truth[len(rows)] = "harmless: same answer with a full stop"
        rows.append((prompt, answer.rstrip(" .").capitalize() + "."))
    for row in random_.sample([row for row in alpaca if resolve.is_open(row["instruction"])], 100):
        truth[len(rows)] = "harmless: creative task, another answer"
        rows += [(f"{row['instruction']}\n{row['input']}", row["output"]), (f"{row['instruction']}\n{row['input']}", "A quiet river.")]
    for number in range(100):
        truth[len(rows)] = "harmless: another number, place or negation"
        n = 1000 + 7 * number
        questions = (f"How many years passed from {n} to 2020?", f"What is {n} + 5?", f"Is {n} a prime number?")
        twins = (f"How many years passed from {n + 1} to 2020?", f"What is {n} - 5?", f"Is {n} not a prime number?")
        rows += [(twins[number % 3], ("3", "4", "No")[number % 3]), (questions[number % 3], ("4", "9", "Yes")[number % 3])]

    began = time.process_time()
    groups = resolve.resolve(rows, resolve.AmbiguityConfig())
    seconds = time.process_time() - began
    bad = {row for group in groups if group.kind in (resolve.SAME, resolve.NEAR, resolve.SIMILAR) for row in group.rows}
    print(f"{len(rows)} rows in {seconds:.1f} CPU seconds\n\n| planted | rows | called contradictory |\n|---|---|---|")
    for way in dict.fromkeys(truth.values()):
        here = [row for row, own in truth.items() if own == way]
        print(f"| {way} | {len(here)} | {sum(row in bad for row in here) / len(here):.3f} |")
    began = time.process_time()
    resolve.resolve([("Hello there", f"Hi {n}") for n in range(100_000)], resolve.AmbiguityConfig())
    print(f"\n100,000 rows with one prompt and as many answers: {time.process_time() - began:.1f} CPU seconds")
    began = time.process_time()
    resolve.resolve([(f"Translate into French: word{n}", f"mot{n}") for n in range(100_000)], resolve.AmbiguityConfig())
    print(f"100,000 prompts that differ in one word: {time.process_time() - began:.1f} CPU seconds")
    found = resolve.resolve([pair for pair, _ in pairs], resolve.AmbiguityConfig())
    print(f"as they are, the {len(pairs)} T0 rows: {Counter(group.kind for group in found)}")
    for group in [group for group in found if group.kind in (resolve.SAME, resolve.NEAR, resolve.SIMILAR)][:30]:
        print(json.dumps({"prompt": pairs[group.rows[0]][0][0][-160:], "answers": [pairs[row][0][1] for row in group.rows][:4]}, ensure_ascii=False))


if __name__ == "__main__":
    main()
