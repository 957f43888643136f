"""Duplicates: hand-worked similarities, estimates against the truth, planted copies found and nothing else, nothing lost, memory bounded."""

import dataclasses
import itertools
import math
import os
import random
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from bessemer.corpus import documents
from bessemer.corpus.dedup import decide, lines, near, sketch, words, write
from bessemer.corpus.dedup.near import DedupConfig
from bessemer.stages import dedup as stage
from bessemer.stages.dedup import dedup

CFG = DedupConfig(workers=1)


def prose(seed: int, size: int = 200) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(size)]


def naive_jaccard(a: str, b: str, n: int = 5) -> float:
    def grams(text: str) -> set[tuple[str, ...]]:
        found = text.lower().split()
        return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}

    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def sets(texts: list[str], n: int) -> list[np.ndarray]:
    flat, ends = near.shingles(texts, n)
    return np.split(flat, ends[:-1])


def similarity(a: str, b: str, n: int) -> float:
    return near.jaccard(*sets([a, b], n))


# Words


ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"


def naive_words(text: str) -> list[str]:
    """Slowly: \\w+ of the lower-cased text, numbers 0, accents gone, Japanese and Chinese characters alone."""
    found = re.findall(rf"[{ALONE}]|[^\W{ALONE}]+", unicodedata.normalize("NFC", text).lower())
    bare = (re.sub(r"\d+", "0", word) for word in found)
    return ["".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c)) for word in bare]


MIXED = ["Hello, World! it's x_y 12 and 345", "Ünïcödé ÉTÉ e\u0301te\u0301 naïve", "日本語のテキスト and 中文", "한국어 문장", "привет, МИР"]
MIXED += ["", "...", "a\nb\tc  d", "3.11.2 v2beta10"]


def test_words_are_those_of_a_slow_reading_and_differ_where_it_differs() -> None:
    values, counts = words.hashes(MIXED)
    slow = [naive_words(text) for text in MIXED]
    assert counts.tolist() == [len(found) for found in slow]
    flat = list(itertools.chain(*slow))
    assert len(set(zip(flat, values.tolist(), strict=True))) == len(set(flat)) == len(set(values.tolist()))


def test_many_words_have_as_many_hashes() -> None:
    """All words of up to 4 letters from 12: 12 + 144 + 1728 + 20736 = 22620, in two blocks. Anagrams and prefixes among them differ."""
    every = ["".join(letters) for size in range(1, 5) for letters in itertools.product("abcdefghijkl", repeat=size)]
    assert len(" ".join(every)) > words.BLOCK
    values, counts = words.hashes([" ".join(every)])
    assert counts.tolist() == [22620] and len(set(values.tolist())) == 22620


def test_words_do_not_depend_on_the_texts_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of 64 characters as in one of 65,536, but for a word that is longer than a block."""
    alone = [words.hashes([text])[0].tolist() for text in MIXED]
    for texts, block in ((MIXED, words.BLOCK), (MIXED * 3, 64)):
        monkeypatch.setattr(words, "BLOCK", block)
        values, counts = words.hashes(texts)
        assert [part.tolist() for part in np.split(values, np.cumsum(counts)[:-1])] == alone * (len(texts) // len(MIXED))
    values, counts = words.hashes(["abc " * 40, "x" * 150, "y"])
    assert counts.tolist() == [40, 3, 1], "150 letters are cut at 64 and 128"


# Near-duplicates


def test_jaccard_by_hand() -> None:
    """Bigrams of "a b c d" are ab bc cd, of "b c d e" bc cd de: two in common of four."""
    assert similarity("a b c d", "B, c; d e!", 2) == 2 / 4
    assert similarity("a b", "a  b", 5) == 1.0, "a text shorter than n is one n-gram"
    assert similarity("a b", "a c", 5) == 0.0 and similarity("a b", "a b a b a b", 5) == 0.0
    assert similarity("on 3.11.2020 it rained", "on 4.1.1999 it rained", 2) == 1.0, "a number is a number"
    assert similarity("a b c d e", "e d c b a", 5) == 0.0, "order counts"
    assert [len(found) for found in sets(["... !", "a a a a a a a", ""], 5)] == [0, 1, 0]
    assert near.jaccard(*sets(["", "-"], 5)) == 1.0


def test_shingles_are_the_n_grams_and_do_not_depend_on_the_texts_beside_them() -> None:
    rng = random.Random(0)
    texts = []
    for seed in range(20):
        a, b = prose(seed, 60), prose(seed, 60)
        for place in rng.sample(range(60), 5):
            b[place] = "changed"
        texts += [" ".join(a), " ".join(b)]
    together = sets(texts, 3)
    for k in range(0, 40, 2):
        assert near.jaccard(together[k], together[k + 1]) == pytest.approx(naive_jaccard(texts[k], texts[k + 1], 3))
        assert (together[k] == sets([texts[k]], 3)[0]).all()


def test_minhash_estimates_the_true_similarity() -> None:
    """The estimate is a mean of k = 2048 draws: standard error sqrt(s (1 - s) / k) <= 0.011; 4.5 of them is 0.05."""
    rng = np.random.default_rng(0)
    for common in (0, 100, 500, 900, 1000):
        pool = rng.choice(2**32, 2000 - common, replace=False).astype(np.uint32) if common != 1000 else rng.integers(0, 2**32, 1000, dtype=np.uint32)
        flat = np.concatenate([pool[:1000], pool[len(pool) - 1000 :]])
        minima = near.minhash(flat, np.array([1000, 2000]), 2048)
        assert np.mean(minima[0] == minima[1]) == pytest.approx(common / (2000 - common), abs=0.05)
    assert near.minhash(np.zeros(0, np.uint32), np.zeros(0, np.int64), 16).shape == (0, 16)


def test_band_keys_are_equal_exactly_where_a_band_agrees() -> None:
    minima = np.random.default_rng(1).integers(0, 2, (60, 12), dtype=np.uint32)
    keys = near.band_keys(minima, 4)
    for a, b in itertools.combinations(range(60), 2):
        assert (keys[a] == keys[b]).tolist() == [(minima[a, k : k + 3] == minima[b, k : k + 3]).all() for k in range(0, 12, 3)]
    bands = [set(keys[:, k].tolist()) for k in range(4)]
    assert all(not x & y for x, y in itertools.combinations(bands, 2)), "the same minima in another band are another bucket"


# Whole corpora


def written(folder: Path, texts: list[str], ids: list[str] | None = None, size: int = 1000) -> Path:
    names = ids or [f"{n:016}" for n in range(len(texts))]
    schema = pa.schema([("id", pa.string()), ("url", pa.string()), ("text", pa.string())])
    rows = [{"id": i, "url": f"http://{i}", "text": text} for i, text in zip(names, texts, strict=True)]
    for index, start in enumerate(range(0, max(1, len(rows)), size)):
        documents.write(documents.shard(folder, index), rows[start : start + size], schema)
    return folder


def removed(folder: Path, cfg: DedupConfig = CFG) -> dict[str, dict]:
    out = folder.with_name(folder.name + "-out")
    dedup(folder, out=out, cfg=cfg)
    found = {row["id"]: row for row in documents.rejected(out)}
    kept = {row["id"] for row in documents.read(out)}
    assert all(row["twin"] in kept for row in found.values() if row["reason"] != "only shared lines"), "a twin is always kept"
    return found


def said(found: dict[str, dict]) -> dict[str, tuple[str, str]]:
    return {name: (row["reason"], row["twin"]) for name, row in found.items()}


def test_fingerprints_ignore_case_and_white_space_only() -> None:
    assert sketch.fingerprint("A  b\n\tc") == sketch.fingerprint("a b c")
    assert len({sketch.fingerprint(text) for text in ("a+b", "a-b", "a + b", "")}) == 4


def test_planted_copies_are_found_and_nothing_else_is(tmp_path: Path) -> None:
    """Of 300 documents, 200 get a copy with 2 to 7 of 200 words changed: true similarity from about 0.9 down to 0.7 and less.

    A pair at the least similarity of 0.65 agrees in a band with probability 1 - (1 - 0.65^5)^24 = 0.95, at 0.7 with 0.988.
    """
    rng = random.Random(7)
    texts = [" ".join(prose(seed)) for seed in range(300)]
    for source in range(200):
        copy = prose(source)
        for place in rng.sample(range(200), 2 + source % 6):
            copy[place] = f"changed{chr(97 + place % 26)}"
        texts.append(" ".join(copy))
    found = {int(name): row for name, row in removed(written(tmp_path / "in", texts)).items()}
    true = {300 + n: naive_jaccard(texts[n], texts[300 + n]) for n in range(200)}
    assert all(true[copy] >= CFG.min_jaccard and int(row["twin"]) == copy - 300 for copy, row in found.items()), "precision is 1"
    planted = {copy for copy, value in true.items() if value >= CFG.min_jaccard}
    assert len(planted) > 150 and len(found) / len(planted) > 0.97
    for copy, row in found.items():
        assert row["jaccard"] == pytest.approx(true[copy])
        assert row["estimated"] == pytest.approx(true[copy], abs=0.19)  # 4.5 standard errors of 120 draws


def test_similar_but_not_enough_is_kept(tmp_path: Path) -> None:
    """Half of the text in common: s = 1/3, found by no verification, whatever the bands say."""
    a, b, c = prose(1, 400), prose(2, 400), prose(3, 400)
    assert not removed(written(tmp_path / "in", [" ".join(a + b), " ".join(a + c)]), dataclasses.replace(CFG, bands=112, rows=1))


def test_the_smallest_id_is_kept_wherever_it_stands(tmp_path: Path) -> None:
    text = " ".join(prose(1))
    found = removed(written(tmp_path / "in", [text, text + " tail", text.upper(), "other"], ["c", "b", "a", "d"], size=2))
    assert said(found) == {"c": ("exact", "a"), "b": ("near", "a")}


def test_the_twin_of_a_copy_is_the_twin_of_what_it_copies(tmp_path: Path) -> None:
    """2 copies 1, which nearly repeats 0; 3 is 2's url once more. All name 0."""
    text = " ".join(prose(1))
    names = ["0", "1", "2", "2"]
    folder = written(tmp_path / "in", [text, text + " tail", text + "  TAIL", " ".join(prose(2))], names)
    out = tmp_path / "out"
    dedup(folder, out=out, cfg=CFG)
    rows = list(documents.rejected(out))
    assert [(row["id"], row["reason"], row["twin"]) for row in rows] == [("1", "near", "0"), ("2", "exact", "0"), ("2", "same url", "0")]
    assert [row["jaccard"] for row in rows] == pytest.approx([196 / 197, 196 / 197, 0])


def test_a_copy_of_what_another_rule_removed_stays(tmp_path: Path) -> None:
    """The second x goes for its url; z, which has its text, is then the only one to say so."""
    folder = written(tmp_path / "in", [" ".join(prose(1)), " ".join(prose(2)), " ".join(prose(2))], ["x", "x", "z"])
    dedup(folder, out=tmp_path / "out", cfg=CFG)
    assert [row["id"] for row in documents.read(tmp_path / "out")] == ["x", "z"]


def test_a_chain_is_cut_where_the_similarity_ends(tmp_path: Path) -> None:
    """a ~ b ~ c, but a and c have too little in common: c stays, since b, which covered it, is gone."""
    base = prose(5, 300)
    a, b, c = " ".join(base[:240]), " ".join(base[20:260]), " ".join(base[40:280])
    cfg = dataclasses.replace(CFG, bands=112, rows=1, min_jaccard=0.8)
    assert naive_jaccard(a, b) > 0.8 > naive_jaccard(a, c) and naive_jaccard(b, c) > 0.8
    assert list(removed(written(tmp_path / "in", [a, b, c], ["a", "b", "c"]), cfg)) == ["b"]


def test_the_decisions_are_those_of_comparing_every_pair(tmp_path: Path) -> None:
    """120 documents in families of 1 to 6, some links weak, against the plain rule: in order of ids, gone if like an earlier one that stays.

    With 120 bands of one row a pair of 0.65 is missed once in 0.35^-120.
    """
    rng = random.Random(3)
    texts: list[str] = []
    while len(texts) < 120:
        family = prose(len(texts))
        for _ in range(rng.randint(1, 6)):
            for place in rng.sample(range(200), rng.randint(0, 7)):
                family[place] = f"w{chr(97 + rng.randrange(26))}{chr(97 + rng.randrange(26))}"
            texts.append(" ".join(family))
    names = [f"{rng.getrandbits(64):016x}" for _ in texts]
    cfg = dataclasses.replace(CFG, bands=120, rows=1, exact=False)
    kept: list[int] = []
    for d in sorted(range(len(texts)), key=names.__getitem__):
        if not any(naive_jaccard(texts[d], texts[k]) >= cfg.min_jaccard for k in kept):
            kept.append(d)
    assert 30 < len(kept) < 100
    found = removed(written(tmp_path / "in", texts, names), cfg)
    assert set(names) - found.keys() == {names[k] for k in kept}


def test_a_bucket_of_twenty_thousand_pages_gives_few_pairs(tmp_path: Path) -> None:
    """Pages of one template, 36 words of 48 the same: s is about 0.5. All pairs would be 2 * 10^8; each page gives 8 in a bucket."""
    head, rng, pool = " ".join(prose(0, 36)), random.Random(0), prose(1, 5000)
    texts = [f"{head} {' '.join(rng.sample(pool, 12))}" for _ in range(20_000)]
    places = sketch.Sketches(tmp_path / "sketch", (0, len(texts)))
    sketch.write(documents.shard(written(tmp_path / "in", texts, size=len(texts)), 0), places.shard(0), CFG)
    decide.record(len(texts), None, [], tmp_path / "decided")
    keys, _ = places.records("near", 0, 1)
    biggest = np.unique(keys, return_counts=True)[1].max()
    decide.candidates(places, tmp_path / "decided", 0, 1, tmp_path / "pairs")
    pairs = sketch.mapped(tmp_path / "pairs", decide.PAIR)
    assert biggest > 1000, "there are large buckets, or this tests nothing"
    assert len(pairs) <= decide.FIRST * len(keys) and np.bincount(pairs["later"]).max() <= decide.FIRST * CFG.bands
    assert len(np.unique(pairs)) == len(pairs)


def test_a_pair_inside_a_large_bucket_is_found(tmp_path: Path) -> None:
    """300 pages of one template (s about 0.5), 40 of them copied with one word changed (s > 0.8)."""
    head = " ".join(prose(0, 60))
    own = [prose(1000 + seed, 40) for seed in range(300)]
    texts = [f"{head} {' '.join(one)}" for one in own] + [f"{head} {' '.join([*one[:20], 'changed', *one[21:]])}" for one in own[-40:]]
    assert said(removed(written(tmp_path / "in", texts))) == {f"{300 + k:016}": ("near", f"{260 + k:016}") for k in range(40)}


# Lines and paragraphs

LINE = "this line is long enough to be boilerplate"


def test_lines_are_cut_by_hand() -> None:
    number = lines.key(LINE, "line")
    text = f"own\n  {LINE}\nshort"
    assert lines.hashes(text, ["line"], 20) == {number} and lines.hashes(text, ["line"], 50) == set()
    assert lines.cut(text, ["line"], {number: 1}, 1) == (text, [])
    assert lines.cut(text, ["line"], {number: 1}, 2) == ("own\nshort", [f"  {LINE}"])
    assert lines.cut(f"{LINE}\n{LINE}", ["line"], {number: 1}, 2) == ("", [LINE, LINE])
    assert lines.cut(f"\n\n{text}\n", ["line"], {7: 1}, 2) == (f"\n\n{text}\n", []), "a text with nothing to cut stays as it is"
    assert lines.said(text, ["line"], {number}) == {number: f"  {LINE}"}


def test_paragraphs_are_cut_by_hand() -> None:
    paragraph = "two lines that stand together\nin many documents"
    number = lines.key(paragraph, "paragraph")
    text = f"own\n\n{paragraph}\n \n\nlast"
    assert lines.hashes(text, ["paragraph"], 20) == {number}
    assert lines.cut(text, ["paragraph"], {number: 1}, 2) == ("own\n\nlast", [paragraph])
    assert lines.key(LINE, "line") != lines.key(LINE, "paragraph")


def test_shared_lines_stay_in_the_first_document_that_is_kept(tmp_path: Path) -> None:
    """Six documents have the line, and a seventh that copies another; more than five share it. Four of another line do not count."""
    texts = [f"{' '.join(prose(n))}\n  {LINE}\n" + ("another line of more than forty characters" if n < 4 else "") for n in range(6)]
    folder = written(tmp_path / "in", [texts[1].upper(), *texts], ["z", *"abcdef"], size=3)
    numbers = dedup(folder, out=tmp_path / "out", cfg=CFG)
    have = [row["id"] for row in documents.read(tmp_path / "out") if LINE in row["text"]]
    assert have == ["a"] and numbers["lines_removed"] == 5
    assert list(documents.read(tmp_path / "out" / "shared_lines")) == [{"line": f"  {LINE}", "documents": 6, "id": "a"}]


def test_paragraphs_are_cut_where_asked(tmp_path: Path) -> None:
    paragraph = "a first line, short\na second, short\na third, short"
    texts = [f"{' '.join(prose(n))}\n\n{paragraph}\n\nend" for n in range(7)]
    for asked in (False, True):
        out = tmp_path / str(asked)
        cfg = dataclasses.replace(CFG, paragraphs=asked)
        cut = dedup(written(tmp_path / "in", texts), out=out, cfg=cfg)["lines_removed"]
        kept = [row["text"] for row in documents.read(out)]
        assert kept == (texts if not asked else [texts[0], *(f"{' '.join(prose(n))}\n\nend" for n in range(1, 7))])
        assert cut == (6 if asked else 0)


# The stage

SHARED = "All of this page is licensed under some terms, read them."


def corpus(folder: Path) -> Path:
    texts = [" ".join(prose(n)) for n in range(20)]
    texts += [texts[0].upper(), texts[1] + " tail", texts[2].replace(" ", "\n")]
    texts += [f"{' '.join(prose(100 + n))}\n{SHARED}" for n in range(8)] + [SHARED]
    urls = [f"http://example.org/{n:03}" for n in range(len(texts))]
    rows = [{"id": documents.identifier(u), "url": u, "title": "T", "text": t, "source": "a:0"} for u, t in zip(urls, texts, strict=True)]
    random.Random(0).shuffle(rows)
    for index, start in enumerate(range(0, len(rows), 16)):
        documents.write(documents.shard(folder, index), rows[start : start + 16])
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and "run" not in p.parts}


def test_kept_and_removed_make_the_whole(tmp_path: Path) -> None:
    numbers = dedup(corpus(tmp_path / "in"), out=tmp_path / "out", cfg=CFG)
    before = {row["id"]: row for row in documents.read(tmp_path / "in")}
    kept = {row["id"]: row for row in documents.read(tmp_path / "out")}
    gone = {row["id"]: row for row in documents.rejected(tmp_path / "out")}
    assert kept.keys() | gone.keys() == before.keys() and not kept.keys() & gone.keys()
    assert numbers["documents_in"] == 32 and numbers["documents"] == len(kept) and numbers["text_bytes_in"] == documents.size(tmp_path / "in")
    reasons = Counter(row["reason"] for row in gone.values())
    assert reasons["exact"] == 2 and reasons["near"] == 1
    for row in gone.values():
        assert row["text"] == before[row["id"]]["text"]
        if row["reason"] in ("exact", "near"):
            assert row["twin"] in kept and row["twin"] < row["id"] and row["jaccard"] >= CFG.min_jaccard
    whole = [row for row in kept.values() if SHARED in row["text"]]
    cut = sum(row["lines_removed"] for row in kept.values())
    assert len(whole) == 1 and cut == numbers["lines_removed"] == 8 - reasons["only shared lines"]
    found = list(documents.read(tmp_path / "out" / "shared_lines"))
    assert found == [{"line": SHARED, "documents": 9, "id": whole[0]["id"]}]
    assert not (tmp_path / "out" / "run" / "dedup").exists()


def test_same_bytes_however_the_work_is_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; in two others; each shard and 20 records at a time."""
    source = corpus(tmp_path / "in")
    dedup(source, out=tmp_path / "one", cfg=CFG)
    made = files(tmp_path / "one")
    monkeypatch.setattr(stage, "TOGETHER", 16)
    dedup(source, out=tmp_path / "two", cfg=dataclasses.replace(CFG, workers=2))
    assert files(tmp_path / "two") == made
    monkeypatch.setattr(stage.workers, "run", lambda function, jobs, *_: [function(*job.args, (), SimpleNamespace(value=0)) for job in jobs])
    dedup(source, out=tmp_path / "shares", cfg=dataclasses.replace(CFG, records=20))
    assert files(tmp_path / "shares") == made


JOBS = ("copies", "candidates", "verify", "resolve", "shared", "record")


class Killed(Exception):
    pass


def test_killed_at_every_step_it_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is killed after each file that it makes, and goes on, each time with shares of another size."""
    source = corpus(tmp_path / "in")
    monkeypatch.setattr(stage, "TOGETHER", 16)
    monkeypatch.setattr(stage.workers, "run", lambda function, jobs, *_: [function(*job.args, (), SimpleNamespace(value=0)) for job in jobs])
    dedup(source, out=tmp_path / "whole", cfg=CFG)
    steps = [
        (write, "shard"),
        (sketch, "write"),
        *((decide, name) for name in JOBS),
    ]
    done = 0

    def mortal(work):
        def once(*args):
            nonlocal done
            work(*args)
            done += 1
            raise Killed

        return once

    for module, name in steps:
        monkeypatch.setattr(module, name, mortal(getattr(module, name)))
    for attempt in range(1000):
        try:
            dedup(source, out=tmp_path / "killed", cfg=dataclasses.replace(CFG, records=(100, 200)[attempt % 2]))
            break
        except Killed:
            continue
    assert done >= 20 and files(tmp_path / "killed") == files(tmp_path / "whole")


def test_what_a_killed_run_left_half_written_is_no_obstacle(tmp_path: Path) -> None:
    """Files under names that this very process will use: a process of a killed run may have had its number."""
    source = corpus(tmp_path / "in")
    dedup(source, out=tmp_path / "whole", cfg=CFG)
    scratch = tmp_path / "out" / "run" / "dedup"
    for name in ("sketch/00000", "pairs-1/00000", "decided-urls"):
        half = scratch / f"{name}.{os.getpid()}.tmp"
        half.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("sketch"):
            half.mkdir()
            half = half / "ids"
        half.write_bytes(b"half")
    dedup(source, out=tmp_path / "out", cfg=CFG)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_lost_shard_is_made_again_and_no_other(tmp_path: Path) -> None:
    source = corpus(tmp_path / "in")
    dedup(source, out=tmp_path / "out", cfg=CFG)
    made, time = files(tmp_path / "out"), documents.shard(tmp_path / "out", 0).stat().st_mtime_ns
    documents.shard(tmp_path / "out", 1).unlink()
    dedup(source, out=tmp_path / "out", cfg=CFG)
    assert files(tmp_path / "out") == made
    assert documents.shard(tmp_path / "out", 0).stat().st_mtime_ns == time


def test_what_is_switched_off_is_not_done(tmp_path: Path) -> None:
    off = dataclasses.replace(CFG, exact=False, near=False, lines=False)
    source = corpus(tmp_path / "in")
    dedup(source, out=tmp_path / "out", cfg=off)
    assert [row["text"] for row in documents.read(tmp_path / "out")] == [row["text"] for row in documents.read(source)]


def test_an_empty_shard_is_no_obstacle(tmp_path: Path) -> None:
    source = corpus(tmp_path / "in")
    documents.write(documents.shard(source, 2), [])
    assert dedup(source, out=tmp_path / "out", cfg=CFG)["documents_in"] == 32
    assert len(documents.shards(tmp_path / "out")) == 3


def test_junk_is_no_obstacle(tmp_path: Path) -> None:
    """Texts of nothing, of one word, without letters, with NULs, ten megabytes on a line; ids that are empty, enormous, or alike."""
    large = random.Random(0).randbytes(4_300_000).hex(" ", 3).translate({48: "\u00e9"})
    assert len(large) > 10_000_000
    texts = ["", "", "word", "Word!", "... !!! ---", "?", "\x00\x00a\x00", large, large[:-50] + "x", "\U0001f600 \U0001f601", "\u0301\u0301"]
    names = ["", "b", "c", "d" * 100_000, "e", "f", "g\x00", "g", "h", "i", "j"]
    found = removed(written(tmp_path / "in", texts, names, size=4))
    assert said(found) == {"b": ("exact", ""), "d" * 100_000: ("near", "c"), "h": ("near", "g")}


def test_documents_without_letters_are_compared_by_nothing_but_their_hash(tmp_path: Path) -> None:
    assert not removed(written(tmp_path / "in", ["...", "!!!", "\u2026"]))


def test_a_corpus_of_one_text_leaves_one(tmp_path: Path) -> None:
    found = removed(written(tmp_path / "in", [" ".join(prose(1))] * 500, size=200))
    assert len(found) == 499 and {row["twin"] for row in found.values()} == {f"{0:016}"}


def test_a_corpus_of_one_id_leaves_one(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", [" ".join(prose(n)) for n in range(50)], ["same"] * 50, size=20)
    assert dedup(folder, out=tmp_path / "out", cfg=CFG)["rejected: same url"] == 49
    assert [row["text"] for row in documents.read(tmp_path / "out")] == [" ".join(prose(0))]


def test_rows_with_one_number_and_no_url_are_two_documents(tmp_path: Path) -> None:
    """Two files may number their rows alike: the same id and no url say nothing, the same text does."""
    rows = [
        {"id": "0", "url": url, "text": " ".join(prose(n))} for n, url in ((0, None), (1, ""), (2, None), (2, None), (3, "http://a"), (4, "http://b"))
    ]
    documents.write(documents.shard(tmp_path / "in", 0), rows)
    numbers = dedup(tmp_path / "in", out=tmp_path / "out", cfg=CFG)
    assert numbers["documents"] == 5 and numbers["rejected: exact"] == 1 and "rejected: same url" not in numbers


def test_long_ids_stay_apart(tmp_path: Path) -> None:
    """Ids from elsewhere may be longer than ours, and alike in the beginning."""
    names = [f"<urn:uuid:12345678-90ab-{n}>" for n in range(3)]
    assert not removed(written(tmp_path / "in", [" ".join(prose(n)) for n in range(3)], names, size=2))


MEMORY = """
import sys
from types import SimpleNamespace
from pathlib import Path
from bessemer.corpus.dedup.near import DedupConfig
from bessemer.stages import dedup as stage
stage.TOGETHER = 500
stage.workers.run = lambda function, jobs, *_: [function(*job.args, (), SimpleNamespace(value=0)) for job in jobs]
stage.dedup(Path(sys.argv[1]), out=Path(sys.argv[2]), cfg=DedupConfig(records=10_000))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """All jobs in one process, one after the other, on 2 and on 10 shards of 500 documents: the sketches alone grow by 10 MB."""
    rng, pool, peaks = random.Random(0), prose(0, 5000), []
    for shards in (2, 10):
        texts = [" ".join(rng.choices(pool, k=200)) for _ in range(500 * shards)]
        texts[1::10] = [text + " tail" for text in texts[0::10]]
        folder = written(tmp_path / f"in{shards}", texts, size=500)
        command = [sys.executable, "-c", MEMORY, str(folder), str(tmp_path / f"out{shards}")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024)
    assert peaks[1] < peaks[0] + 5, f"{peaks} MB"


def test_shares_of_the_records_are_bounded_and_make_the_whole(tmp_path: Path) -> None:
    """3,000 documents of 24 bands in 36 shares of 2,000 records on average: none is more than 6 standard deviations off."""
    texts = [" ".join(prose(seed, 20)) for seed in range(3000)]
    places = sketch.Sketches(tmp_path / "sketch", (0, 3000))
    sketch.write(documents.shard(written(tmp_path / "in", texts, size=3000), 0), places.shard(0), CFG)
    parts = [places.records("near", part, 36) for part in range(36)]
    assert places.count("near") == sum(len(keys) for keys, _ in parts) == 72_000
    assert max(len(keys) for keys, _ in parts) < 2000 + 6 * math.sqrt(2000)
    whole = np.concatenate([keys for keys, _ in parts])
    assert (np.diff(whole.astype(object)) >= 0).all(), "shares follow each other in the order of keys"
    assert Counter(np.concatenate([found for _, found in parts]).tolist()) == dict.fromkeys(range(3000), 24)
