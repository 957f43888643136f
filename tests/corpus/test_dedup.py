"""Duplicates: hand-worked similarities, estimates against the truth, planted copies found and nothing else, nothing lost."""

import dataclasses
import itertools
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bessemer.corpus import documents
from bessemer.corpus.dedup import near as d
from bessemer.corpus.dedup.near import DedupConfig
from bessemer.stages.dedup import dedup

CFG = DedupConfig(workers=1)


def prose(seed: int, words: int = 200) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(words)]


def naive_jaccard(a: str, b: str, n: int) -> float:
    def grams(text: str) -> set[tuple[str, ...]]:
        words = text.lower().split()
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def test_jaccard_by_hand() -> None:
    """Bigrams of "a b c d" are ab bc cd, of "b c d e" bc cd de: two in common of four."""
    assert d.jaccard(d.shingles("a b c d", 2), d.shingles("B, c; d e!", 2)) == 2 / 4
    assert d.jaccard(d.shingles("a b", 5), d.shingles("a  b", 5)) == 1.0, "a text shorter than n is one n-gram"
    assert d.jaccard(d.shingles("a b", 5), d.shingles("a c", 5)) == 0.0
    assert len(d.shingles("... !", 5)) == 0 and d.jaccard(d.shingles("", 5), d.shingles("-", 5)) == 1.0


def test_shingles_are_the_n_grams_and_do_not_depend_on_the_cache() -> None:
    rng, hashes = random.Random(0), d.Hashes()
    for seed in range(20):
        a, b = prose(seed, 60), prose(seed, 60)
        for place in rng.sample(range(60), 5):
            b[place] = "changed"
        left, right = d.shingles(" ".join(a), 3, hashes), d.shingles(" ".join(b), 3, hashes)
        assert d.jaccard(left, right) == pytest.approx(naive_jaccard(" ".join(a), " ".join(b), 3))
        assert (left == d.shingles(" ".join(a), 3)).all()
    assert d.jaccard(d.shingles("a b c d e", 5), d.shingles("e d c b a", 5)) == 0.0, "order counts"


def test_minhash_estimates_the_true_similarity() -> None:
    """The estimate is a mean of k = 2048 draws: standard error sqrt(s (1 - s) / k) <= 0.011; 4.5 of them is 0.05."""
    rng = np.random.default_rng(0)
    for common in (0, 100, 500, 900, 1000):
        pool = rng.integers(0, 2**63, 2000 - common, dtype=np.uint64)
        a, b = pool[:1000], pool[1000 - common :]
        minima = d.minhash([a, b], 2048)
        assert np.mean(minima[0] == minima[1]) == pytest.approx(common / (2000 - common), abs=0.05)
    with_empty = d.minhash([a, np.zeros(0, np.uint64), a], 16)
    assert (with_empty[0] == with_empty[2]).all() and not (with_empty[0] == with_empty[1]).any()
    assert d.minhash([], 16).shape == (0, 16)


def test_buckets_hold_exactly_the_rows_that_agree_in_a_band() -> None:
    rng = np.random.default_rng(1)
    minima = rng.integers(0, 2, (60, 12), dtype=np.uint32)
    found = d.buckets(minima, 4)
    for a, b in itertools.combinations(range(60), 2):
        for band in range(4):
            agree = (minima[a, band * 3 : band * 3 + 3] == minima[b, band * 3 : band * 3 + 3]).all()
            assert agree == (found[a, band] >= 0 and found[a, band] == found[b, band])
    assert d.buckets(np.zeros((0, 12), np.uint32), 4).shape == (0, 4)
    assert (d.buckets(rng.integers(0, 2**32, (50, 12), dtype=np.uint32), 4) == -1).all()


def decide(texts: list[str], cfg: DedupConfig = CFG, ids: list[str] | None = None) -> d.Decision:
    sketch = d.sketch(texts, ids or [f"{n:016}" for n in range(len(texts))], cfg)
    return d.decide(sketch, cfg, lambda wanted: {n: d.shingles(texts[n], cfg.ngram) for n in wanted})


def test_fingerprints_ignore_case_and_white_space_only() -> None:
    assert d.fingerprint("A  b\n\tc") == d.fingerprint("a b c")
    assert len({d.fingerprint(text) for text in ("a+b", "a-b", "a + b", "")}) == 4


def test_planted_copies_are_found_and_nothing_else_is() -> None:
    """Of 300 documents, 100 get a copy with 2 % of the words changed: true similarity about 0.98^5 ... 0.8 and more."""
    rng = random.Random(7)
    texts = [" ".join(prose(seed)) for seed in range(300)]
    for source in range(100):
        words = prose(source)
        for place in rng.sample(range(200), 4):
            words[place] = f"changed{place}"
        texts.append(" ".join(words))
    found = decide(texts)
    planted = {300 + n: n for n in range(100) if naive_jaccard(texts[n], texts[300 + n], CFG.ngram) >= CFG.min_jaccard}
    removed = {int(n): int(found.twin[n]) for n in np.flatnonzero(found.reason != "")}
    assert set(removed.items()) <= set(planted.items()), "precision is 1: each pair was verified"
    assert len(planted) > 60 and len(removed) / len(planted) > 0.95
    for copy, source in removed.items():
        assert found.jaccard[copy] == pytest.approx(naive_jaccard(texts[copy], texts[source], CFG.ngram))
        assert found.estimated[copy] == pytest.approx(found.jaccard[copy], abs=0.16)  # 4 standard errors of 112 draws


def test_similar_but_not_enough_is_kept() -> None:
    """Half of the text in common: s = 1/3, found by no verification, whatever the bands say."""
    a, b, c = prose(1, 400), prose(2, 400), prose(3, 400)
    found = decide([" ".join(a + b), " ".join(a + c)], dataclasses.replace(CFG, bands=112, rows=1))
    assert found.reason.tolist() == ["", ""]


def test_the_smallest_id_is_kept_wherever_it_stands() -> None:
    text = " ".join(prose(1))
    near = text + " tail"
    found = decide([text, near, text.upper(), "other"], ids=["c", "b", "a", "d"])
    assert found.reason.tolist() == [d.EXACT, d.NEAR, "", ""]
    assert found.twin.tolist() == [2, 2, -1, -1]


def test_a_twin_is_always_kept() -> None:
    """2 copies 1, which nearly repeats 0: both name 0."""
    text = " ".join(prose(1))
    found = decide([text, text + " tail", text + "  TAIL"])
    assert found.reason.tolist() == ["", d.NEAR, d.EXACT] and found.twin.tolist() == [-1, 0, 0]
    assert found.jaccard[2] == found.jaccard[1] == pytest.approx(196 / 197)


def test_a_chain_is_cut_where_the_similarity_ends() -> None:
    """a ~ b ~ c, but a and c have too little in common: c stays, since b, which covered it, is gone."""
    base = prose(5, 300)
    a, b, c = " ".join(base[:240]), " ".join(base[20:260]), " ".join(base[40:280])
    cfg = dataclasses.replace(CFG, bands=112, rows=1)
    assert naive_jaccard(a, b, 5) > 0.8 > naive_jaccard(a, c, 5) and naive_jaccard(b, c, 5) > 0.8
    assert decide([a, b, c], cfg).reason.tolist() == ["", d.NEAR, ""]


def test_a_url_counts_once() -> None:
    found = decide([" ".join(prose(1)), " ".join(prose(2)), " ".join(prose(3))], ids=["x", "y", "x"])
    assert found.reason.tolist() == ["", "", d.SAME_URL] and found.twin.tolist() == [-1, -1, 0]


def test_shared_lines_stay_in_the_first_document_only() -> None:
    line = "this line is long enough to be boilerplate"
    texts = [f"own {n}\n  {line}\nshort" for n in range(4)] + [f"{line}\n{line}"]
    sketch = d.sketch(texts, [f"{n}" for n in range(5)], dataclasses.replace(CFG, line_length=20))
    kept = np.array([False, True, True, True, True])
    hashes, first, times = d.shared_lines(sketch, kept, 3)
    assert first.tolist() == [1] and times.tolist() == [4]
    shared = dict(zip(hashes.tolist(), first.tolist(), strict=True))
    assert d.without_shared(texts[1], 1, shared, 20) == (texts[1], [])
    assert d.without_shared(texts[2], 2, shared, 20) == ("own 2\nshort", [f"  {line}"])
    assert d.without_shared(texts[4], 4, shared, 20) == ("", [line, line])
    assert len(d.shared_lines(sketch, kept, 4)[0]) == 0, "four documents are not more than four"


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
    removed = {row["id"]: row for row in documents.rejected(tmp_path / "out")}
    assert kept.keys() | removed.keys() == before.keys() and not kept.keys() & removed.keys()
    assert numbers["documents_in"] == 32 and numbers["documents"] == len(kept) and numbers["text_bytes_in"] == documents.size(tmp_path / "in")
    reasons = Counter(row["reason"] for row in removed.values())
    assert reasons[d.EXACT] == 2 and reasons[d.NEAR] == 1
    for row in removed.values():
        assert row["text"] == before[row["id"]]["text"]
        if row["reason"] in (d.EXACT, d.NEAR):
            assert row["twin"] in kept and row["twin"] < row["id"] and row["jaccard"] >= 0.8
    whole = [row for row in kept.values() if SHARED in row["text"]]
    cut = sum(row["lines_removed"] for row in kept.values())
    assert len(whole) == 1 and cut == numbers["lines_removed"] == 8 - reasons["only shared lines"]
    lines = list(documents.read(tmp_path / "out" / "shared_lines"))
    assert lines == [{"line": SHARED, "documents": 9, "id": whole[0]["id"]}]


def test_same_bytes_with_one_worker_or_two_and_after_a_lost_shard(tmp_path: Path) -> None:
    source = corpus(tmp_path / "in")
    dedup(source, out=tmp_path / "one", cfg=CFG)
    dedup(source, out=tmp_path / "two", cfg=dataclasses.replace(CFG, workers=2))
    made = files(tmp_path / "one")
    assert files(tmp_path / "two") == made
    kept = documents.shard(tmp_path / "two", 0).stat().st_mtime_ns
    documents.shard(tmp_path / "two", 1).unlink()
    dedup(source, out=tmp_path / "two", cfg=CFG)
    assert files(tmp_path / "two") == made
    assert documents.shard(tmp_path / "two", 0).stat().st_mtime_ns == kept


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


def test_long_ids_stay_apart(tmp_path: Path) -> None:
    """Ids from elsewhere may be longer than ours, and alike in the beginning."""
    ids = [f"<urn:uuid:12345678-90ab-{n}>" for n in range(3)]
    for shard, some in enumerate((ids[:2], ids[2:])):
        documents.write(documents.shard(tmp_path / "in", shard), [{"id": i, "text": " ".join(prose(ids.index(i)))} for i in some])
    assert dedup(tmp_path / "in", out=tmp_path / "out", cfg=CFG)["rejected"] == 0
    assert [row["id"] for row in documents.read(tmp_path / "out")] == ids
