"""Train a model from scratch on token files: a decoder on the next token, an encoder on hidden ones, an encoder-decoder on hidden spans."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from bessemer.core import artifact, device, log
from bessemer.core.config import Count, Fraction, Positive, runtime
from bessemer.core.recipe import Step
from bessemer.data import mixture, order, seq2seq
from bessemer.data import tokens as token_file
from bessemer.data.mixture import MixConfig, Mixture
from bessemer.data.pretraining import spans
from bessemer.data.pretraining.masked import MaskConfig, MaskedRows
from bessemer.data.pretraining.pairs import PairRows
from bessemer.data.pretraining.prefix import PrefixRows
from bessemer.data.pretraining.spans import SpanConfig, SpanRows
from bessemer.decode.generate import check, generate
from bessemer.decode.sample import Sampling
from bessemer.model import weights
from bessemer.model.config import Architecture, ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.scale import count, plan
from bessemer.tokenizer.tokenizer import Tokenizer
from bessemer.train.loop import FitConfig, Source, fit, results
from bessemer.train.objective import Objective, masked_pair, predict, predict_ahead
from bessemer.train.optimizers.optimizer import Below1, OptimizerName
from bessemer.train.parallel import mesh

Batches = list[token_file.Batch]

# objective -> the fields of the model that it needs
NEEDS: dict[str, dict[str, object]] = {
    "next": {"shape": "decoder", "head": "lm", "prefix": False},
    "prefix": {"shape": "decoder", "head": "lm", "prefix": True, "ahead": 0},
    "masked": {"shape": "encoder", "head": "lm"},
    "masked+pair": {"shape": "encoder", "head": "lm+pair", "types": 2},
    "spans": {"shape": "encdec"},
}
# objective -> the tokens that the tokenizer must have for it
ROLES = {"masked": ("mask",), "masked+pair": ("mask", "cls", "sep"), "spans": ("sentinels",)}


@dataclass(frozen=True)
class PretrainConfig(FitConfig, Architecture):
    # What is predicted: next token; masked: hidden tokens (BERT), +pair: and whether a text follows the other; spans: hidden spans (T5);
    # prefix: next token, behind a prefix that is seen both ways
    objective: Literal["next", "prefix", "masked", "masked+pair", "spans"] = "next"
    # Chosen by measuring small decoders (docs/training.md)
    optimizer: OptimizerName = "muon"  # muon: Muon for the matrices of the blocks, AdamW for the rest
    lr: Positive = 4e-3  # peak learning rate
    embed_lr: Positive = 5.0  # peak rate of embeddings and head, as a multiple of lr; measured with Muon, so say 1 with adamw
    beta1: Below1 = 0.8  # of AdamW
    momentum: Below1 = 0.9  # of Muon; 0.95 for runs of many thousand steps
    decay: Fraction = 0.65  # share of the steps at the end in which the rate falls (wsd)
    mask: MaskConfig = field(default_factory=MaskConfig)  # of masked and masked+pair
    span: SpanConfig = field(default_factory=SpanConfig)  # of spans
    mix: MixConfig = field(default_factory=MixConfig)  # shares of the domains
    held_out: Count = 64  # validation windows read at each evaluation, shared equally by the domains
    samples: tuple[str, ...] = runtime(("The module",))  # continued at each evaluation, to see it learn

    version: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in NEEDS[self.objective].items():
            if getattr(self, name) != value:
                said = str(value).lower() if isinstance(value, bool) else value
                raise ValueError(f"objective = {self.objective} needs {name} = {said}, not {getattr(self, name)}")
        if self.objective == "masked+pair" and self.mix != MixConfig():
            raise ValueError("objective = masked+pair reads every domain as it is: leave mix out")

    def model(self, vocab: int) -> ModelConfig:
        return ModelConfig(vocab=vocab, **{f.name: getattr(self, f.name) for f in fields(Architecture)})


def pretrain(tokens: Path, tokenizer: Path, *, out: Path, cfg: PretrainConfig) -> dict[str, float]:
    words = Tokenizer.load(tokenizer)
    files = token_file.load_all(tokens, "train", words.vocab)
    for file in files.values():
        token_file.check_words(file, words)
    length = _length(cfg)
    sizes = token_file.sizes(tokens, "train", length)
    phases = mixture.phases(cfg.mix, sizes, cfg.steps, cfg.batch, length, cfg.decay)
    windows = Mixture(files, sizes, phases, length, cfg.batch, cfg.seed)
    source, held_out, objective = _predicted(tokens, words, cfg, windows)
    model = Model(cfg.model(words.vocab))
    try:
        check(model.cfg, _prompts(words, cfg))
    except ValueError as error:
        raise ValueError(f"samples: {error}") from None
    initialise(model, cfg.seed)
    log.say(f"{count.parameters(model.cfg):,} parameters on {device.describe(device.pick())}, {sum(sizes.values()) * length:,} tokens an epoch")

    for row in fit(model, objective, source, cfg, out, held_out, "pretrain"):
        if shown := _shown(row):
            log.say(f"step {row['step']}: {shown}{_samples(model, words, cfg)}")
    start = seq2seq.start_of(words) if cfg.shape == "encdec" else None
    weights.save(model, out, tokenizer, [words.end_of_text], start)
    return {
        "parameters": count.parameters(model.cfg),
        "tokens": cfg.steps * cfg.batch * length,
        "epochs": round(cfg.steps * cfg.batch / sum(sizes.values()), 3),
        "flops": cfg.steps * cfg.batch * _row_flops(cfg, model.cfg),
        **(mixture.numbers(phases, sizes) if len(sizes) > 1 else {}),
        **results(out),
    }


def estimate(cfg: PretrainConfig, step: Step) -> dict[str, float]:
    length = _length(cfg)
    made = step.upstream("tokens")
    if made is None:
        for path in (path for path in step.inputs["tokens"] if isinstance(path, Path)):
            mixture.phases(cfg.mix, token_file.sizes(path, "train", length), cfg.steps, cfg.batch, length, cfg.decay)
    elif made.stage.name == "tokens":
        if made.inputs["tokenizer"] != step.inputs["tokenizer"]:
            raise ValueError("tokens were made with another tokenizer than this one: name the same in both")
        if not made.cfg.domain:  # else the domains are values that nobody has seen yet
            mixture.check(cfg.mix, [_domain(source) for source in made.inputs["documents"]])
    for words in step.inputs["tokenizer"]:
        _check_roles(words, cfg, length)
    model = plan.model_of(step)
    if model is None:
        return {}
    mesh.check(cfg.mesh, model, cfg.mesh.ranks)
    return plan.cost(model, cfg.steps * cfg.batch * _row_flops(cfg, model), cfg.precision)


def _check_roles(words: Step | Path | str, cfg: PretrainConfig, length: int) -> None:
    """ValueError where the tokenizer, one that exists or one that a recipe will train, lacks what the objective hides tokens behind."""
    hidden = spans.counts(length, cfg.span)[1] if cfg.objective == "spans" else 0
    if isinstance(words, Step) and words.stage.name == "tokenizer":
        if cfg.objective.startswith("masked") and not words.cfg.masks:
            raise ValueError(f"objective = {cfg.objective} hides tokens behind a mask: give the tokenizer masks = true")
        if words.cfg.sentinels < hidden:
            raise ValueError(f"objective = spans hides {hidden} spans in a row: give the tokenizer as many sentinels")
    elif isinstance(words, Path):
        known = Tokenizer.load(words)
        for role in ROLES.get(cfg.objective, ()):
            known.need(role)
        if len(known.sentinels) < hidden:
            raise ValueError(f"objective = spans hides {hidden} spans in a row, and the tokenizer has {len(known.sentinels)} sentinels")


def _length(cfg: PretrainConfig) -> int:
    """Tokens of text in a row: of a span-corrupted one more than its source has places."""
    return spans.lengths(cfg.context, cfg.span)[0] if cfg.objective == "spans" else cfg.context


def _row_flops(cfg: PretrainConfig, model: ModelConfig) -> float:
    if cfg.objective == "spans":
        return count.row_flops(model, spans.lengths(cfg.context, cfg.span)[1], cfg.context)
    return count.row_flops(model, cfg.context, predicted=round(cfg.mask.rate * cfg.context) if cfg.objective.startswith("masked") else None)


def _domain(source: Step | Path | str) -> str:
    """What documents will be called as a domain."""
    if isinstance(source, Path):
        return artifact.name_of(source)
    return source.name if isinstance(source, Step) else source.rpartition("/")[2].partition("@")[0]  # hf://datasets/org/name@revision


def _held_out(tokens: Path, words: Tokenizer, cfg: PretrainConfig) -> tuple[Batches, dict[str, int]]:
    """The first validation windows of each domain, and how many bytes of text each domain's predict."""
    length = _length(cfg)
    sizes = token_file.sizes(tokens, "val", length)
    files = {name: file for name, file in token_file.load_all(tokens, "val", words.vocab).items() if sizes[name]}
    if not files:
        raise ValueError(f"{tokens}: no domain's validation text fills one window of {length} tokens: raise the tokens' held_out")
    widths = np.array(words.token_bytes())
    batches: Batches = []
    spelled: dict[str, int] = {}
    for number, (name, file) in enumerate(files.items()):
        windows = token_file.Windows(file, length, cfg.batch, cfg.seed)
        found = list(order.in_order(windows.at, min(-(-cfg.held_out // len(files)), sizes[name]), cfg.batch))
        batches += [batch | {"domain": torch.full((len(batch["tokens"]),), number)} for batch in found]
        spelled[name] = sum(int(widths[batch["targets"].numpy()].sum()) for batch in found)
    return batches, spelled


def _predicted(tokens: Path, words: Tokenizer, cfg: PretrainConfig, windows: Mixture) -> tuple[Source, Batches, Objective]:
    """The rows of the objective, in training and held out, and the objective."""
    if cfg.objective == "masked+pair":
        source, unseen = (
            PairRows(list(token_file.load_all(tokens, split, words.vocab).values()), words, cfg.mask, cfg.context, cfg.batch, cfg.seed)
            for split in token_file.SPLITS
        )
        return source, list(order.in_order(unseen.rows, min(cfg.held_out, unseen.count), cfg.batch)), masked_pair
    held_out, spelled = _held_out(tokens, words, cfg)
    if cfg.objective == "next":
        targets = sum(batch["targets"].numel() for batch in held_out)
        return windows, held_out, _by_domain(predict_ahead() if cfg.ahead else predict, targets, spelled)
    rows: MaskedRows | SpanRows | PrefixRows
    if cfg.objective == "masked":
        rows = MaskedRows(windows, words, cfg.mask, cfg.seed)
    elif cfg.objective == "spans":
        rows = SpanRows(windows, cfg.context, words, cfg.span, cfg.seed)
    else:
        rows = PrefixRows(windows, cfg.seed)
    return rows, rows.held_out(held_out), predict


def _by_domain(objective: Objective, targets: int, sizes: Mapping[str, int]) -> Objective:
    """The objective, and bits per byte, which compare across tokenizers: over all held-out `targets`, and for each domain over its own bytes."""

    def terms(model: Model, batch: token_file.Batch) -> dict[str, torch.Tensor]:
        found = objective(model, batch)
        bits = found["loss"].detach() * (targets / math.log(2))
        found["bits_per_byte"] = bits / sum(sizes.values())
        if "domain" in batch and len(sizes) > 1:
            for number, (name, size) in enumerate(sizes.items()):
                found[f"bits_per_byte: {name}"] = bits * (batch["domain"] == number)[:, None] / max(size, 1)
        return found

    return terms


def _shown(row: dict[str, float]) -> str:
    """The held-out numbers of a report, where it has any."""
    if "val_bits_per_byte" in row:
        return f"{row['val_bits_per_byte']:.3f} bits per byte"
    return ", ".join(f"held out {name.removeprefix('val_')} {value:.3f}" for name, value in row.items() if name.startswith("val_"))


def _samples(model: Model, words: Tokenizer, cfg: PretrainConfig) -> str:
    """What the model makes of some prompts."""
    prompts = _prompts(words, cfg)
    model.eval()
    answers = generate(model, prompts, Sampling(max_tokens=24), {words.end_of_text})
    model.train()
    return "".join(f"\n    {words.decode(prompt)}|{words.decode(answer)!r}" for prompt, answer in zip(prompts, answers, strict=True))


def _prompts(words: Tokenizer, cfg: PretrainConfig) -> list[list[int]]:
    """What is continued at each evaluation: nothing but by a decoder."""
    return [words.encode(text) for text in cfg.samples] if cfg.shape == "decoder" else []
