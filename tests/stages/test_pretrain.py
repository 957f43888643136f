"""Every objective trains, saves and opens again; what does not fit together is refused, by the plan where it can know."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from bessemer.core import recipe
from bessemer.data import checkpoint
from bessemer.data import tokens as token_file
from bessemer.model import weights
from bessemer.stages import find
from bessemer.stages.pretrain import PretrainConfig, pretrain
from bessemer.tokenizer import bpe, special
from bessemer.tokenizer.tokenizer import Tokenizer

ALL = itertools.product(("key", "book", "old lamp"), ("Ada", "Grace"), ("garden", "cellar", "harbour", "attic"))
TEXTS = [f"The {what} of {who} is number {n}. It was found in the {place}.\nNobody knows why.\n" for n, (what, who, place) in enumerate(ALL)]


def trained(folder: Path, texts: Sequence[str], masks: bool = True, sentinels: int = 12) -> Path:
    bpe.save(bpe.train([" ".join(texts)], 340, special=special.tokens(masks, sentinels)), folder)
    return folder


def written(folder: Path, tokenizer: Path, domains: Sequence[str] = ("docs",)) -> Path:
    words = Tokenizer.load(tokenizer)
    for number, domain in enumerate(domains):
        for split, texts in (("train", TEXTS[number:20]), ("val", TEXTS[20:])):
            with token_file.Writer(folder / domain, split, words.vocab, words.end_of_text) as file:
                for i, ids in enumerate(words.encode_batch(texts)):
                    file.add(f"{domain}{split}{i}", len(texts[i].encode()), ids)
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("words"), TEXTS)


@pytest.fixture(scope="module")
def tokens(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("tokens"), words)


SMALL = {"steps": 2, "batch": 2, "width": 32, "depth": 1, "heads": 4, "kv_heads": 4, "hidden": 48, "context": 32, "compile": False, "held_out": 4}
SMALL |= {"precision": "fp32", "log_every": 1, "eval_every": 1}
ENCODER = {"shape": "encoder", "position": "learned", "types": 2}
OBJECTIVES = {
    "next": {},
    "next, further ahead, experts": {"ahead": 2, "ffn": "moe", "experts": 4},
    "prefix": {"objective": "prefix", "prefix": True},
    "masked": {"objective": "masked", **ENCODER, "mask": {"whole_words": True}},
    "masked+pair": {"objective": "masked+pair", "head": "lm+pair", **ENCODER},
    "spans": {"objective": "spans", "shape": "encdec", "position": "bias"},
    "next, rwkv": {"mixer": "rwkv", "ffn": "channel", "position": "none"},
    "next, lstm": {"mixer": "lstm", "position": "none"},
}


def config(**fields) -> PretrainConfig:
    return recipe.config.parse(PretrainConfig, SMALL | fields, "pretrain")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_saves_and_opens_again(name: str, words: Path, tokens: Path, tmp_path: Path):
    cfg = config(**OBJECTIVES[name])
    found = pretrain(tokens, words, out=tmp_path, cfg=cfg)
    costs = [value for term, value in found.items() if term.startswith("val_") and term.endswith("loss")]
    assert costs and sum(costs) < 1.1 * math.log(340) * len(costs) and all(map(math.isfinite, found.values()))
    assert ("val_bits_per_byte" in found) == (cfg.objective == "next")
    model, again = checkpoint.load(tmp_path, shapes=(cfg.shape,))
    assert again.vocab == model.cfg.vocab and model.cfg.ahead == 0 and not list(model.further)
    assert weights.generation_defaults(tmp_path)["eos_token_id"] == ([] if cfg.shape == "encoder" else [again.end_of_text])


def test_what_was_saved_says_what_was_measured(words: Path, tokens: Path, tmp_path: Path):
    """The last held-out loss once more, of the checkpoint opened anew."""
    found = pretrain(tokens, words, out=tmp_path, cfg=config())
    model, tokenizer = checkpoint.load(tmp_path)
    windows = token_file.Windows(token_file.load(tokens / "docs", "val", tokenizer.vocab), 32, 4, 0)
    batch = windows.at(torch.arange(min(4, windows.count)).numpy())
    with torch.no_grad():
        scores = model.logits(model(batch["tokens"], batch["at"], batch["segment"])).log_softmax(-1)
    expected = -scores.gather(-1, batch["targets"][..., None]).mean()
    assert found["val_loss"] == pytest.approx(expected.item(), rel=1e-4)


REFUSED = [
    ({"objective": "masked"}, "objective = masked needs shape = encoder, not decoder"),
    ({"objective": "spans"}, "needs shape = encdec, not decoder"),
    ({"shape": "encoder"}, "objective = next needs shape = decoder"),
    ({"shape": "encdec"}, "objective = next needs shape = decoder"),
    ({"objective": "prefix"}, "needs prefix = true, not False"),
    ({"prefix": True}, "objective = next needs prefix = false"),
    ({"objective": "prefix", "prefix": True, "ahead": 1}, "needs ahead = 0"),
    ({"objective": "masked+pair", "shape": "encoder"}, r"needs head = lm\+pair"),
    ({"objective": "masked+pair", "shape": "encoder", "head": "lm+pair"}, "needs types = 2, not 0"),
    ({"objective": "masked+pair", "head": "lm+pair", **ENCODER, "mix": {"weights": {"a": 1.0}}}, "leave mix out"),
    ({"head": "scalar"}, "needs head = lm, not scalar"),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED, ids=lambda value: "")
def test_an_objective_with_another_shape_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        config(**fields)


@pytest.mark.parametrize("objective", ["next", "masked", "masked+pair", "spans", "prefix"])
def test_tokens_of_another_tokenizer_are_refused(objective: str, tokens: Path, tmp_path: Path):
    """As many entries, other text."""
    other = trained(tmp_path / "other", [text[::-1].upper() for text in TEXTS])
    with pytest.raises(ValueError, match="was not encoded by this tokenizer"):
        pretrain(tokens, other, out=tmp_path, cfg=config(**OBJECTIVES[objective]))


def test_a_tokenizer_without_the_roles_is_refused(tokens: Path, tmp_path: Path):
    bare = trained(tmp_path / "bare", TEXTS, masks=False, sentinels=0)
    own = written(tmp_path / "tokens", bare)
    for objective, said in (
        ("masked", "no mask token; train one with masks = true"),
        ("masked+pair", "no mask token"),
        ("spans", "no sentinels token; train one with sentinels"),
    ):
        with pytest.raises(ValueError, match=said):
            pretrain(own, bare, out=tmp_path, cfg=config(**OBJECTIVES[objective]))
    few = trained(tmp_path / "few", TEXTS, sentinels=1)
    with pytest.raises(ValueError, match="hides 2 spans, and the tokenizer has 1 sentinels"):
        pretrain(written(tmp_path / "more", few), few, out=tmp_path, cfg=config(**OBJECTIVES["spans"]))


@pytest.mark.parametrize(("sample", "said"), [("", "samples: a prompt is empty"), ("The key of Ada " * 8, "samples: a prompt of .* leaves no room")])
def test_a_sample_that_cannot_be_continued_is_refused_before_training(sample: str, said: str, words: Path, tokens: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=said):
        pretrain(tokens, words, out=tmp_path, cfg=config(samples=[sample]))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def planned(tmp_path: Path, text: str) -> list[recipe.Step]:
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    return recipe.load(file, find)


RECIPE = """
[words]
stage = "tokenizer"
documents = ["{docs}"]
{words}
[other]
stage = "tokenizer"
documents = ["{docs}"]
vocab = 900
[tokens]
documents = ["{docs}"]
tokenizer = "words"
[base]
stage = "pretrain"
tokenizer = "{tokenizer}"
context = 64
{base}
"""


def written_recipe(tmp_path: Path, words: str = "", tokenizer: str = "words", base: str = "") -> str:
    (tmp_path / "docs").mkdir(exist_ok=True)
    return RECIPE.format(docs=tmp_path / "docs", words=words, tokenizer=tokenizer, base=base)


PLANS = [
    ({"tokenizer": "other"}, "tokens were made with another tokenizer"),
    ({"base": 'objective = "masked"\nshape = "encoder"'}, "give the tokenizer masks = true"),
    ({"base": 'objective = "spans"\nshape = "encdec"'}, "hides 3 spans in a row: give the tokenizer as many sentinels"),
    ({"base": 'objective = "masked"'}, "needs shape = encoder"),
    ({"base": "heads = 3"}, r"heads \(3\) must divide width"),
]


@pytest.mark.parametrize(("changes", "said"), PLANS, ids=lambda value: "")
def test_the_plan_refuses_what_cannot_work(changes, said, tmp_path: Path):
    with pytest.raises(ValueError, match=said):
        planned(tmp_path, written_recipe(tmp_path, **changes))


def test_the_plan_looks_at_tokenizers_that_exist(tmp_path: Path):
    """A path as tokenizer, for tokens of a recipe and of a folder."""
    bare = trained(tmp_path / "bare", TEXTS, masks=False, sentinels=1)
    own = written(tmp_path / "own", bare)
    with pytest.raises(ValueError, match="tokens were made with another tokenizer"):
        planned(tmp_path, written_recipe(tmp_path, tokenizer=str(bare)))
    for fields, said in (
        ('objective = "masked"\nshape = "encoder"', "this tokenizer has no mask token"),
        ('objective = "spans"\nshape = "encdec"', "hides 3 spans in a row, and the tokenizer has 1 sentinels"),
    ):
        with pytest.raises(ValueError, match=said):
            planned(tmp_path, f'[base]\nstage = "pretrain"\ntokens = "{own}"\ntokenizer = "{bare}"\ncontext = 64\n{fields}\n')


def test_the_plan_knows_what_training_costs(tmp_path: Path):
    """An encoder-decoder: the FLOPs are those of full rows on both sides, and the checkpoint holds every weight in fp32."""
    sizes = {"steps": 10, "batch": 4, "width": 32, "depth": 1, "heads": 4, "kv_heads": 4, "hidden": 48}
    base = 'objective = "spans"\nshape = "encdec"\nprecision = "fp32"\n' + "\n".join(f"{name} = {size}" for name, size in sizes.items())
    (*_, step) = planned(tmp_path, written_recipe(tmp_path, words="sentinels = 20\nvocab = 600", base=base))
    # Embedding and head 600 * 32, attention 4 * 32 * 32, feed-forward 3 * 32 * 48. A source of 64 holds what is left of 70 tokens, 10 of
    # them hidden in 3 spans: 70 - 10 + 3 and the end. Its target has 10 + 3 and the end.
    assert step.estimate["bytes"] == 4 * (600 * 32 + 3 * 4096 + 2 * 4608 + 32 * 7)
    source, target = 64, 14
    weights_of = {"source": 4096 + 4608 + 2048, "target": 4096 + 2048 + 4608 + 600 * 32}
    pairs = 12 * 32 * (source**2 + target**2 + source * target)
    assert step.estimate["flops"] == 40 * (6 * (source * weights_of["source"] + target * weights_of["target"]) + pairs)
