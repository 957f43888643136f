"""Train a decoder from scratch on token files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from bessemer.core import artifact, device, log
from bessemer.core.config import Count, runtime
from bessemer.core.recipe import Step
from bessemer.data import mixture, order
from bessemer.data import tokens as token_file
from bessemer.data.mixture import MixConfig, Mixture
from bessemer.decode.generate import generate
from bessemer.decode.sample import Sampling
from bessemer.model import config, decoder, weights
from bessemer.scale import count, plan
from bessemer.tokenizer.tokenizer import Tokenizer
from bessemer.train.loop import FitConfig, fit, results
from bessemer.train.objective import Objective, predict_bytes


@dataclass(frozen=True)
class PretrainConfig(FitConfig):
    width: Count = 256
    depth: Count = 6
    heads: Count = 4  # query heads
    kv_heads: Count = 2  # heads of keys and values
    head_width: Count = 64
    hidden: Count = 704  # inner width of the feed-forward
    ffn: config.Ffn = "gated"  # gated: SwiGLU (Llama's); relu2: squared ReLU
    context: Count = 256  # tokens per row
    tied: bool = True  # one matrix for embedding and head
    mix: MixConfig = field(default_factory=MixConfig)  # shares of the domains
    held_out: Count = 64  # validation windows read at each evaluation, shared equally by the domains
    samples: tuple[str, ...] = runtime(("The module",))  # continued at each evaluation, to see it learn

    version: ClassVar[int] = 2

    def model(self, vocab: int) -> config.ModelConfig:
        names = ("width", "depth", "heads", "kv_heads", "head_width", "hidden", "ffn", "context", "tied")
        return config.ModelConfig(vocab=vocab, **{name: getattr(self, name) for name in names})


def pretrain(tokens: Path, tokenizer: Path, *, out: Path, cfg: PretrainConfig) -> dict[str, float]:
    words = Tokenizer.load(tokenizer)
    files = token_file.load_all(tokens, "train", words.vocab)
    sizes = token_file.sizes(tokens, "train", cfg.context)
    phases = mixture.phases(cfg.mix, sizes, cfg.steps, cfg.batch, cfg.context, cfg.decay)
    train = Mixture(files, sizes, phases, cfg.context, cfg.batch, cfg.seed)
    held_out, objective = _held_out(tokens, words, cfg)
    model = decoder.Decoder(cfg.model(words.vocab))
    decoder.initialise(model, cfg.seed)
    log.say(f"{count.parameters(model.cfg):,} parameters on {device.describe(device.pick())}, {sum(sizes.values()) * cfg.context:,} tokens an epoch")

    for row in fit(model, objective, train, cfg, out, held_out, "pretrain"):
        if "val_bits_per_byte" in row:
            log.say(f"step {row['step']}: {row['val_bits_per_byte']:.3f} bits per byte{_samples(model, words, cfg)}")
    weights.save(model, out, tokenizer, [words.end_of_text])
    return {
        "parameters": count.parameters(model.cfg),
        "tokens": cfg.steps * cfg.batch * cfg.context,
        "epochs": round(cfg.steps * cfg.batch / sum(sizes.values()), 3),
        "flops": cfg.steps * cfg.batch * cfg.context * count.training_flops(model.cfg, cfg.context),
        **(mixture.numbers(phases, sizes) if len(sizes) > 1 else {}),
        **results(out),
    }


def estimate(cfg: PretrainConfig, step: Step) -> dict[str, float]:
    made = step.upstream("tokens")
    if made is None:
        for path in (path for path in step.inputs["tokens"] if isinstance(path, Path)):
            mixture.phases(cfg.mix, token_file.sizes(path, "train", cfg.context), cfg.steps, cfg.batch, cfg.context, cfg.decay)
    elif made.stage.name == "tokens" and not made.cfg.domain:  # else the domains are values that nobody has seen yet
        mixture.check(cfg.mix, [_domain(source) for source in made.inputs["documents"]])
    return plan.training(step, cfg.steps * cfg.batch * cfg.context, cfg.context)


def _domain(source: Step | Path | str) -> str:
    """What documents will be called as a domain."""
    if isinstance(source, Path):
        return artifact.name_of(source)
    return source.name if isinstance(source, Step) else source.rpartition("/")[2].partition("@")[0]  # hf://datasets/org/name@revision


def _held_out(tokens: Path, words: Tokenizer, cfg: PretrainConfig) -> tuple[list[token_file.Batch], Objective]:
    """The first validation windows of each domain, and the objective that reports their bits per byte, together and by domain."""
    sizes = token_file.sizes(tokens, "val", cfg.context)
    files = {name: file for name, file in token_file.load_all(tokens, "val", words.vocab).items() if sizes[name]}
    if not files:
        raise ValueError(f"{tokens}: no domain's validation text fills one window of {cfg.context} tokens: raise the tokens' held_out")
    widths = np.array(words.token_bytes())
    batches: list[token_file.Batch] = []
    spelled: dict[str, int] = {}
    for number, (name, file) in enumerate(files.items()):
        windows = token_file.Windows(file, cfg.context, cfg.batch, cfg.seed)
        found = list(order.in_order(windows.at, min(-(-cfg.held_out // len(files)), sizes[name]), cfg.batch))
        batches += [batch | {"domain": torch.full((len(batch["tokens"]),), number)} for batch in found]
        spelled[name] = sum(int(widths[batch["targets"].numpy()].sum()) for batch in found)
    return batches, _by_domain(sum(batch["targets"].numel() for batch in batches), spelled)


def _by_domain(targets: int, sizes: Mapping[str, int]) -> Objective:
    """`predict_bytes`, whose held-out mean over all `targets` comes a second time for each domain: over its own bytes."""
    objective = predict_bytes(sum(sizes.values()) / targets)

    def terms(model: decoder.Decoder, batch: token_file.Batch) -> dict[str, torch.Tensor]:
        found = objective(model, batch)
        if "domain" in batch and len(sizes) > 1:
            for number, (name, size) in enumerate(sizes.items()):
                mine = (batch["domain"] == number)[:, None]
                found[f"bits_per_byte: {name}"] = found["loss"].detach() * mine * (targets / (math.log(2) * max(size, 1)))
        return found

    return terms


def _samples(model: decoder.Decoder, words: Tokenizer, cfg: PretrainConfig) -> str:
    model.eval()
    prompts = [words.encode(text) for text in cfg.samples]
    answers = generate(model, prompts, Sampling(max_tokens=24), {words.end_of_text}) if prompts else []
    model.train()
    return "".join(f"\n    {text}|{words.decode(answer)!r}" for text, answer in zip(cfg.samples, answers, strict=True))
