"""RWKV-4, the version that transformers has."""

from typing import Any

from torch import Tensor

from bessemer.model.config import ModelConfig
from bessemer.model.layouts import names

TYPES = ("rwkv",)
EPS = 1e-5  # of the last norm, whatever the configuration says

TOP = [
    ("embed.weight", "rwkv.embeddings.weight"),
    ("head.weight", "head.weight"),
    *((f"embed_norm.{kind}", f"rwkv.blocks.0.pre_ln.{kind}") for kind in ("weight", "bias")),
    *((f"stack.norm.{kind}", f"rwkv.ln_out.{kind}") for kind in ("weight", "bias")),
]
BLOCK = [
    *((f"{ours}.{kind}", f"{theirs}.{kind}") for ours, theirs in (("mix_norm", "ln1"), ("ffn_norm", "ln2")) for kind in ("weight", "bias")),
    *((f"mix.{ours}", f"attention.{theirs}") for ours, theirs in (
        ("decay", "time_decay"), ("bonus", "time_first"), ("mix_r", "time_mix_receptance"), ("mix_k", "time_mix_key"), ("mix_v", "time_mix_value"),
        ("receptance.weight", "receptance.weight"), ("key.weight", "key.weight"), ("value.weight", "value.weight"), ("out.weight", "output.weight"))),
    *((f"ffn.{ours}", f"feed_forward.{theirs}") for ours, theirs in (
        ("mix_r", "time_mix_receptance"), ("mix_k", "time_mix_key"),
        ("receptance.weight", "receptance.weight"), ("up.weight", "key.weight"), ("down.weight", "value.weight"))),
]  # fmt: skip


def config(cfg: ModelConfig) -> dict[str, Any] | None:
    fits = cfg.mixer == "rwkv4" and cfg.ffn == "channel4" and cfg.position == "none" and cfg.embed_norm
    if not fits or cfg.norm != "layer" or cfg.norm_at != "pre" or cfg.norm_eps != EPS or cfg.head != "lm":
        return None
    return {
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "attention_hidden_size": cfg.width,
        "num_hidden_layers": cfg.depth,
        "intermediate_size": cfg.hidden,
        "context_length": cfg.context,
        "layer_norm_epsilon": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        "rescale_every": 0,  # halving hidden states as they grow is for fp16
        "bos_token_id": None,
    }


def read(given: dict[str, Any]) -> ModelConfig:
    width = given["hidden_size"]
    if (given.get("attention_hidden_size") or width) != width:
        raise ValueError(f"attention_hidden_size {given['attention_hidden_size']} of rwkv is not supported, only hidden_size ({width})")
    if given.get("layer_norm_epsilon", EPS) != EPS:
        raise ValueError(f"layer_norm_epsilon {given['layer_norm_epsilon']} of rwkv is not supported, only {EPS}")
    return ModelConfig(
        vocab=given["vocab_size"],
        width=width,
        depth=given["num_hidden_layers"],
        heads=1,
        kv_heads=1,
        hidden=given.get("intermediate_size") or 4 * width,
        context=given.get("context_length", 1024),
        mixer="rwkv4",
        position="none",
        ffn="channel4",
        act="relu2",
        norm="layer",
        norm_eps=EPS,
        embed_norm=True,
        tied=given.get("tie_word_embeddings", False),
    )


def theirs(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    found = names.renamed(state, dict(_names(cfg)))
    if cfg.tied:
        found.pop("head.weight", None)
    return {name: weight.view(1, 1, -1) if ".time_mix_" in name else weight for name, weight in found.items()}


def ours(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    state = {name: weight.flatten() if ".time_mix_" in name else weight for name, weight in state.items()}
    return names.with_head(names.renamed(state, {theirs: ours for ours, theirs in _names(cfg)}), cfg)


def _names(cfg: ModelConfig) -> list[tuple[str, str]]:
    return [*TOP, *names.layers("stack.blocks", "rwkv.blocks", BLOCK, cfg.depth)]
