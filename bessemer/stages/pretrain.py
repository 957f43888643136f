"""Train a decoder from scratch on token files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bessemer.core import device, log
from bessemer.core.config import Count, runtime
from bessemer.core.recipe import Step
from bessemer.data import order
from bessemer.data import tokens as token_file
from bessemer.decode.generate import generate
from bessemer.decode.sample import Sampling
from bessemer.model import config, decoder, weights
from bessemer.scale import count, plan
from bessemer.tokenizer.tokenizer import Tokenizer
from bessemer.train.loop import FitConfig, fit, results
from bessemer.train.objective import predict_bytes


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
    held_out: Count = 64  # validation windows read at each evaluation
    samples: tuple[str, ...] = runtime(("The module",))  # continued at each evaluation, to see it learn

    def model(self, vocab: int) -> config.ModelConfig:
        names = ("width", "depth", "heads", "kv_heads", "head_width", "hidden", "ffn", "context", "tied")
        return config.ModelConfig(vocab=vocab, **{name: getattr(self, name) for name in names})


def pretrain(tokens: Path, tokenizer: Path, *, out: Path, cfg: PretrainConfig) -> dict[str, float]:
    words = Tokenizer.load(tokenizer)
    model = decoder.Decoder(cfg.model(words.vocab))
    decoder.initialise(model, cfg.seed)
    train = token_file.Windows(token_file.load(tokens, "train", words.vocab), cfg.context, cfg.batch, cfg.seed)
    held_out, bytes_per_token = _held_out(tokens, words, cfg)
    log.say(f"{count.parameters(model.cfg):,} parameters on {device.describe(device.pick())}, {train.count * cfg.context:,} tokens an epoch")

    for row in fit(model, predict_bytes(bytes_per_token), train, cfg, out, held_out, "pretrain"):
        if "val_bits_per_byte" in row:
            log.say(f"step {row['step']}: {row['val_bits_per_byte']:.3f} bits per byte{_samples(model, words, cfg)}")
    weights.save(model, out, tokenizer, [words.end_of_text])
    return {
        "parameters": count.parameters(model.cfg),
        "tokens": cfg.steps * cfg.batch * cfg.context,
        "epochs": round(cfg.steps * cfg.batch / train.count, 3),
        "flops": cfg.steps * cfg.batch * cfg.context * count.training_flops(model.cfg, cfg.context),
        **results(out),
    }


def estimate(cfg: PretrainConfig, step: Step) -> dict[str, float]:
    return plan.training(step, cfg.steps * cfg.batch * cfg.context, cfg.context)


def _held_out(tokens: Path, words: Tokenizer, cfg: PretrainConfig) -> tuple[list[token_file.Batch], float]:
    """The first windows of the validation split, and the bytes that one of their tokens stands for on average."""
    windows = token_file.Windows(token_file.load(tokens, "val", words.vocab), cfg.context, cfg.batch, cfg.seed)
    batches = list(order.in_order(windows.at, min(cfg.held_out, windows.count), cfg.batch))
    lengths = np.array(words.token_bytes())
    return batches, float(np.concatenate([lengths[batch["targets"].numpy().ravel()] for batch in batches]).mean())


def _samples(model: decoder.Decoder, words: Tokenizer, cfg: PretrainConfig) -> str:
    model.eval()
    prompts = [words.encode(text) for text in cfg.samples]
    answers = generate(model, prompts, Sampling(max_tokens=24), {words.end_of_text}) if prompts else []
    model.train()
    return "".join(f"\n    {text}|{words.decode(answer)!r}" for text, answer in zip(cfg.samples, answers, strict=True))
