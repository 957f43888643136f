"""The mix of domains: shares, caps, annealing and order, hand-worked and as invariants; and a training run on two domains."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from bessemer.core import artifact, log, recipe
from bessemer.corpus import documents as store
from bessemer.data import mixture, tokens
from bessemer.data.mixture import MixConfig, Mixture, allot, phases
from bessemer.stages import find
from bessemer.stages.pretrain import PretrainConfig, pretrain
from bessemer.stages.tokens import TokensConfig
from bessemer.stages.tokens import tokens as tokenise

SIZES = {"books": 40, "web": 400, "wiki": 100}
CONTEXT = 4


def token_file(name: str, rows: int) -> tokens.TokenFile:
    """`rows` windows; the ids of window w are all w, each a document of its own called NAME-w."""
    ids = np.append(np.repeat(np.arange(rows), CONTEXT), 0)
    return tokens.TokenFile(ids, np.append(np.arange(rows + 1) * CONTEXT, len(ids)), np.ones(rows + 1), [f"{name}-{w}" for w in range(rows + 1)])


def mixed(cfg: MixConfig, steps: int, batch: int, sizes: Mapping[str, int] = SIZES, seed: int = 0) -> Mixture:
    parts = phases(cfg, sizes, steps, batch, CONTEXT, decay=0.25)
    return Mixture({name: token_file(name, size) for name, size in sizes.items()}, sizes, parts, CONTEXT, batch, seed)


def taken(source: Mixture, steps: range) -> list[tuple[int, int]]:
    return [pair for step in steps for pair in zip(*(column.tolist() for column in source.rows(step)), strict=True)]


def test_rows_are_shared_out_by_hand():
    """100 rows as 5 : 3 : 2 are 50, 30, 20. The first may have 20 only: the 30 left over go 3 : 2, 18 and 12. The second may have
    40 only: its 8 more go to the third. Seven rows as 1 : 1 : 1 are 2 each and one for the first."""
    assert allot([5, 3, 2], [100, 100, 100], 100) == [50, 30, 20]
    assert allot([5, 3, 2], [20, 100, 100], 100) == [20, 48, 32]
    assert allot([5, 3, 2], [20, 40, 100], 100) == [20, 40, 40]
    assert allot([1, 1, 1], [9, 9, 9], 7) == [3, 2, 2]
    assert allot([1, 0], [9, 9], 7) == [7, 0] and allot([1, 2], [0, 0], 0) == [0, 0]


@pytest.mark.parametrize("seed", range(40))
def test_no_allotment_exceeds_its_room_and_open_ones_keep_their_proportions(seed: int):
    draw = np.random.default_rng(seed)
    weights = [*(draw.random(6) ** 3 * draw.integers(0, 2, 6)).tolist(), 0.2]
    room = draw.integers(0, 500, 7).tolist()
    rows = int(draw.integers(0, sum(free for free, weight in zip(room, weights, strict=True) if weight) + 1))
    found = allot(weights, room, rows)
    assert sum(found) == rows and all(n <= free for n, free in zip(found, room, strict=True))
    assert all(n == 0 for n, weight in zip(found, weights, strict=True) if not weight)
    level = [n / weight for n, free, weight in zip(found, room, weights, strict=True) if weight and n < free]
    slack = [1 / weight for n, free, weight in zip(found, room, weights, strict=True) if weight and n < free]
    assert all(abs(a - b) <= s + t for a, s in zip(level, slack, strict=True) for b, t in zip(level, slack, strict=True))


def test_a_temperature_flattens_sizes():
    """T = 1 keeps 40 : 400 : 100; T = 2 takes square roots, 6.32 : 20 : 10 of 36.3; a large one makes them equal."""
    for temperature, wanted in ((1.0, (4 / 54, 40 / 54, 10 / 54)), (2.0, (0.174, 0.551, 0.275)), (1e6, (1 / 3, 1 / 3, 1 / 3))):
        [part] = phases(MixConfig(temperature=temperature), SIZES, 1000, 10, CONTEXT, 0.25)
        assert part.total == 10_000 and [n / 10_000 for n in part.rows] == pytest.approx(wanted, abs=1e-3)


def test_annealing_takes_first_and_begins_with_the_decay():
    """400 steps of 10 rows, the last quarter on wiki and books 1 : 1: 500 rows of each, and 3,000 before as 3 : 1. In two epochs wiki
    and books have (100 + 40) x 2 rows of 4 tokens: refused."""
    cfg = MixConfig(weights={"web": 3, "wiki": 1}, anneal={"wiki": 1, "books": 1}, max_epochs=30)
    main, late = phases(cfg, SIZES, 400, 10, CONTEXT, decay=0.25)
    assert (main.begin, late.begin) == (0, 3000) and main.rows == (0, 2250, 750) and late.rows == (500, 0, 500)
    assert late.before == main.rows
    source = mixed(cfg, 400, 10)
    assert {domain for domain, _ in taken(source, range(299, 300))} == {1, 2} and {d for d, _ in taken(source, range(300, 301))} == {0, 2}
    main, late = phases(MixConfig(weights={"web": 1}, anneal={"wiki": 1}, anneal_share=0.1), SIZES, 95, 8, CONTEXT, 0.25)
    assert (late.begin, late.total) == ((95 - 9) * 8, 72)
    with pytest.raises(ValueError, match=r"mix.anneal: 4,000 tokens are wanted, and books, wiki give 1,120 in 2 epochs"):
        phases(MixConfig(weights={"web": 1}, anneal={"wiki": 1, "books": 1}, max_epochs=2), SIZES, 400, 10, CONTEXT, 0.25)
    with pytest.raises(ValueError, match=r"mix.weights: 12,000 tokens are wanted, and web, wiki give 10,000 in 5 epochs: raise max_epochs"):
        phases(MixConfig(weights={"web": 1, "wiki": 1}, anneal={"wiki": 1}, anneal_share=0.0, max_epochs=5), SIZES, 300, 10, CONTEXT, 0.25)


MIXES = {
    "weights": MixConfig(weights={"web": 0.5, "wiki": 0.3, "books": 0.2}),
    "capped": MixConfig(weights={"web": 0.5, "wiki": 0.3, "books": 0.2}, max_epochs=8),
    "annealed": MixConfig(temperature=3, max_epochs=7.5, anneal={"wiki": 2, "books": 1}, anneal_share=0.1),
}


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("batch", [1, 7, 32])
def test_a_training_gives_each_domain_exactly_its_rows_evenly_and_each_window_in_turn(name: str, batch: int):
    """Exact over a phase, within three rows of the share in any 32, at most max_epochs of a domain, every window once before any twice."""
    steps = 2100 // batch
    source = mixed(MIXES[name], steps, batch, seed=5)
    rows = taken(source, range(steps))
    assert len(rows) == steps * batch
    for part in source.phases:
        here = np.array([domain for domain, _ in rows[part.begin : part.begin + part.total]])
        assert tuple(np.bincount(here, minlength=3)) == part.rows
        for domain, wanted in enumerate(part.rows):
            passed = np.append(0, np.cumsum(here == domain))
            assert np.abs(passed[32:] - passed[:-32] - 32 * wanted / part.total).max() < 3
            assert np.abs(passed - np.arange(part.total + 1) * wanted / part.total).max() < 5
    for domain, size in enumerate(SIZES.values()):
        windows = [window for d, window in rows if d == domain]
        for begin in range(0, len(windows), size):
            assert len(set(windows[begin : begin + size])) == len(windows[begin : begin + size])
        cap = MIXES[name].max_epochs
        assert not cap or len(windows) <= cap * size


def test_the_same_rows_whatever_the_batch_and_wherever_one_begins():
    """Rows are numbered through the training: 3 steps of 32 are 96 of 1; and a step asked for alone is the step reached in order."""
    for cfg in MIXES.values():
        wide, narrow = mixed(cfg, 60, 32), mixed(cfg, 60 * 32, 1)
        late = 60 * 32 - 32 * 5
        assert taken(wide, range(55, 60)) == taken(narrow, range(late, late + 160))
        assert taken(wide, range(3)) == taken(narrow, range(96))
        fresh = mixed(cfg, 60, 32)
        for column, again in zip(wide(57).values(), fresh(57).values(), strict=True):
            assert torch.equal(column, again)
    assert taken(mixed(MIXES["weights"], 60, 32, seed=1), range(9)) != taken(mixed(MIXES["weights"], 60, 32, seed=2), range(9))


def test_one_domain_is_the_windows_source():
    file = token_file("web", 50)
    one = Mixture({"web": file}, {"web": 50}, phases(MixConfig(), {"web": 50}, 30, 7, CONTEXT, 0.25), CONTEXT, 7, seed=3)
    windows = tokens.Windows(file, CONTEXT, 7, seed=3)
    for step in (0, 6, 7, 8, 29):
        assert all(torch.equal(a, b) for a, b in zip(one(step).values(), windows(step).values(), strict=True))
        assert one.documents_at(step) == windows.documents_at(step)


def test_a_batch_holds_what_its_rows_name_and_says_which_documents():
    source = mixed(MIXES["weights"], 50, 8)
    for step in (0, 17, 49):
        domains, windows = source.rows(step)
        assert source(step)["tokens"].tolist() == [[window] * CONTEXT for window in windows.tolist()]
        names = list(SIZES)
        held = set(source.documents_at(step))
        assert {f"{names[d]}-{w}" for d, w in zip(domains, windows, strict=True)} <= held and len(held) <= 16


@pytest.mark.parametrize("total", [1, 2, 3, 30, 97, 1024, 2310, 10_000])
def test_places_are_met_once_each_and_counted_in_closed_form(total: int):
    part = mixture.Phase("main", 0, (total,), (0,))
    places = [row * part.stride % total for row in range(total)]
    assert sorted(places) == list(range(total))
    draw = np.random.default_rng(total)
    for edge, rows in zip(draw.integers(0, total + 1, 60).tolist(), draw.integers(0, total + 1, 60).tolist(), strict=True):
        assert mixture.below(edge, rows, part.stride, total) == sum(place < edge for place in places[:rows])


def test_a_trillion_tokens_are_as_quick_to_look_up_as_a_thousand():
    """5 billion rows of 4 tokens: nothing is written down by row. The last row of the training is the last of its domain."""
    file = tokens.TokenFile(np.broadcast_to(np.int64(0), 4 * 10**9 + 1), np.array([0, 4 * 10**9 + 1]), np.ones(1), ["d"])
    sizes = {"a": 10**9, "b": 10**9}
    [part] = phases(MixConfig(weights={"a": 2, "b": 1}), sizes, 10**9, 5, CONTEXT, 0.25)
    source = Mixture({"a": file, "b": file}, sizes, [part], CONTEXT, 5, 0)
    assert part.total == 5 * 10**9 and part.rows == (3_333_333_333, 1_666_666_667)
    domains, windows = source.rows(10**9 - 1)
    last = [mixture.below(edge, part.total, part.stride, part.total) for edge in part.edges]
    assert last == part.edges and set(domains.tolist()) == {0, 1} and windows.min() >= 0 and windows.max() < 10**9


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (MixConfig(weights={"wikk": 1}), "mix.weights: unknown name 'wikk'; did you mean 'wiki'.*known: books, tiny, web, wiki"),
        (MixConfig(anneal={"code": 1}), "mix.anneal: unknown name 'code'"),
        (MixConfig(weights={"tiny": 1, "web": 1}), "mix.weights: tiny does not fill one row of 4 tokens"),
    ],
)
def test_a_mix_that_does_not_fit_the_domains_is_refused(cfg: MixConfig, message: str):
    with pytest.raises(ValueError, match=message):
        phases(cfg, {"books": 40, "tiny": 0, "web": 400, "wiki": 100}, 10, 10, CONTEXT, 0.25)
    assert phases(MixConfig(), {"tiny": 0, "web": 5}, 10, 10, CONTEXT, 0.25)[0].rows == (0, 100)
    with pytest.raises(ValueError, match=r"no domain fills one row of 4 tokens \(tiny\): lower context or add documents"):
        phases(MixConfig(), {"tiny": 0}, 10, 10, CONTEXT, 0.25)


def test_a_recipe_knows_what_its_inputs_will_be_called(tmp_path: Path):
    """By the table, the folder, or the dataset; as the tokens stage will find them in the hub's cache."""
    from bessemer.stages.pretrain import _domain

    snapshot = tmp_path / "datasets--org--wikipedia" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    assert _domain("hf://datasets/org/wikipedia@main") == artifact.name_of(snapshot) == _domain(snapshot) == "wikipedia"
    assert _domain(tmp_path) == tmp_path.name


DOMAINS = {"numbers": "one two three four five six seven ", "letters": "alpha beta gamma delta epsilon "}
TRAINING = "steps = 12\nbatch = 4\nwidth = 16\ndepth = 1\nheads = 2\nkv_heads = 1\nhead_width = 8\nhidden = 16\ncontext = 16\n"
REST = "held_out = 8\ncompile = false\neval_every = 6\nsamples = []\n"
RECIPE = f"""
[tokens]
documents = ["{{folder}}/numbers", "{{folder}}/letters"]
tokenizer = "{{tokenizer}}"
held_out = 0.3
[base]
stage = "pretrain"
tokenizer = "{{tokenizer}}"
{TRAINING}{REST}decay = 0.5
mix = {{mix}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    root = tmp_path_factory.mktemp("mix")
    for name, text in DOMAINS.items():
        store.write(store.shard(root / name, 0), [{"id": f"{name}{n}", "text": text * 3} for n in range(30)])
    tokenise(tuple(root / name for name in DOMAINS), tokenizer_folder, out=root / "tokens", cfg=TokensConfig(held_out=0.3))
    return root


def test_a_recipe_names_its_mix_and_the_plan_checks_it(made: Path, tokenizer_folder: Path, tmp_path: Path):
    def load(mix: str) -> list[recipe.Step]:
        (tmp_path / "r.toml").write_text(RECIPE.format(folder=made, tokenizer=tokenizer_folder, mix=mix))
        return recipe.load(tmp_path / "r.toml", find)

    step = load("{ weights = { numbers = 0.7, letters = 0.3 }, max_epochs = 4, anneal = { letters = 1.0 } }")[1]
    assert step.cfg.mix == MixConfig(weights={"numbers": 0.7, "letters": 0.3}, max_epochs=4, anneal={"letters": 1.0})
    for mix, message in (
        ("{ weights = { number = 1 } }", "base: mix.weights: unknown name 'number'; did you mean 'numbers'"),
        ("{ weights = { numbers = -1 } }", "base.mix.weights.numbers: input should be greater than or equal to 0"),
        ("{ weights = { numbers = inf } }", "base.mix.weights.numbers: "),
        ("{ weights = { numbers = 0 } }", r"base.mix: all of weights are 0 \(numbers\)"),
        ("{ anneal = { letters = 0.0 } }", r"base.mix: all of anneal are 0 \(letters\)"),
        ("{ weights = { numbers = 1 }, temperature = 2 }", "base.mix: temperature 2 shares by size, and weights are given too"),
        ("{ temperature = 0 }", "base.mix.temperature"),
        ("{ wieghts = { numbers = 1 } }", "wieghts"),
    ):
        with pytest.raises(ValueError, match=message):
            load(mix)


def test_the_plan_refuses_a_mix_that_tokens_on_disk_cannot_fill(made: Path, tokenizer_folder: Path, tmp_path: Path):
    recipe_of = '[pretrain]\ntokens = "{}"\ntokenizer = "{}"\ncontext = 16\nsteps = 12\nbatch = 4\nmix = {{ max_epochs = 0.05 }}'
    (tmp_path / "r.toml").write_text(recipe_of.format(made / "tokens", tokenizer_folder))
    with pytest.raises(ValueError, match=r"pretrain: mix.weights: 768 tokens are wanted, and letters, numbers give \d+ in 0.05 epochs"):
        recipe.load(tmp_path / "r.toml", find)


def test_training_on_a_mix_reports_each_domain(made: Path, tokenizer_folder: Path, tmp_path: Path):
    """48 rows: 24 of the main mix, 3 : 1, then 24 of letters alone. The held-out figure of both lies between theirs: its bits are their sum."""
    cfg = PretrainConfig(
        steps=12, batch=4, width=16, depth=1, heads=2, kv_heads=1, head_width=8, hidden=16, context=16, held_out=8, compile=False,
        eval_every=6, samples=(), decay=0.5, mix=MixConfig(weights={"numbers": 3, "letters": 1}, anneal={"letters": 1}),
    )  # fmt: skip
    numbers = pretrain(made / "tokens", tokenizer_folder, out=tmp_path, cfg=cfg)
    assert (numbers["numbers: main rows"], numbers["letters: main rows"]) == (18, 6)
    assert (numbers["numbers: anneal rows"], numbers["letters: anneal rows"]) == (0, 24)
    assert numbers["letters: epochs"] > numbers["numbers: epochs"] > 0
    both = sorted(numbers[f"val_bits_per_byte: {name}"] for name in DOMAINS)
    assert both[0] < numbers["val_bits_per_byte"] < both[1] and math.isfinite(both[1])
    rows = log.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [("val_bits_per_byte: letters" in row) for row in rows].count(True) == 2
    with pytest.raises(ValueError, match=r"mix.weights: .* tokens are wanted, and letters, numbers give"):
        pretrain(made / "tokens", tokenizer_folder, out=tmp_path / "x", cfg=PretrainConfig(context=16, steps=10_000, mix=MixConfig(max_epochs=4)))


def test_the_bits_per_byte_of_a_domain_are_its_own(made: Path, words):
    """A model of equal logits needs log2(vocabulary) bits a token, so a domain's figure is that times its tokens per byte, and the
    figure of both is that over the windows of both."""
    from bessemer.model.model import Model
    from bessemer.stages.pretrain import _predicted
    from bessemer.train.loop import FitConfig, _evaluate
    from bessemer.train.means import Means
    from bessemer.train.parallel.spread import Spread

    cfg = PretrainConfig(batch=3, context=16, held_out=10)
    windows = Mixture({}, {"letters": 0}, [], 16, 3, 0)
    _, batches, objective = _predicted(made / "tokens", words, cfg, windows)
    model = Model(cfg.model(words.vocab))
    torch.nn.init.zeros_(model.embed.weight)
    alone = Spread(Means(model, objective, torch.float32), FitConfig(micro_batch=2), torch.device("cpu"))
    found = _evaluate(alone, batches)
    widths, counts, sizes = np.array(words.token_bytes()), Counter[int](), Counter[int]()
    for batch in batches:
        counts[int(batch["domain"][0])] += batch["targets"].numel()
        sizes[int(batch["domain"][0])] += int(widths[batch["targets"].numpy()].sum())
    bits = math.log2(words.vocab)
    assert counts == {0: 80, 1: 80}
    assert found["val_bits_per_byte"] == pytest.approx(bits * 160 / sum(sizes.values()), rel=1e-5)
    for number, name in enumerate(("letters", "numbers")):
        assert found[f"val_bits_per_byte: {name}"] == pytest.approx(bits * counts[number] / sizes[number], rel=1e-5)
