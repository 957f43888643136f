"""GPT-2: learned positions, LayerNorm, biases, matrices stored the other way round with queries, keys and values in one."""

from typing import Any

import torch
from torch import Tensor

from bessemer.model.config import Act, Head, ModelConfig
from bessemer.model.layouts import names

TYPES = ("gpt2",)
ACTS: dict[Act, str] = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "relu2": "relu2", "silu": "silu"}
HEADS: dict[str, str] = {"lm": "GPT2LMHeadModel", "scalar": "GPT2ForSequenceClassification", "sequence": "GPT2ForSequenceClassification"}

TOP = [
    ("embed.weight", "transformer.wte.weight"),
    ("place.weight", "transformer.wpe.weight"),
    ("stack.norm.weight", "transformer.ln_f.weight"),
    ("stack.norm.bias", "transformer.ln_f.bias"),
    ("head.weight", "lm_head.weight"),
    ("label.weight", "score.weight"),
]
BLOCK = [
    (f"{ours}.{kind}", f"{theirs}.{kind}")
    for ours, theirs in [
        ("mix_norm", "ln_1"),
        ("mix.out", "attn.c_proj"),
        ("ffn_norm", "ln_2"),
        ("ffn.up", "mlp.c_fc"),
        ("ffn.down", "mlp.c_proj"),
    ]
    for kind in ("weight", "bias")
]
TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def config(cfg: ModelConfig) -> dict[str, Any] | None:
    gpt2 = cfg.shape == "decoder" and cfg.mixer == "attention" and cfg.position == "learned" and cfg.norm == "layer" and cfg.norm_at == "pre"
    plain = cfg.bias == "all" and cfg.ffn == "dense" and cfg.kv_heads == cfg.heads and cfg.heads * cfg.head_width == cfg.width
    if not (gpt2 and plain) or cfg.window or cfg.qk_norm or cfg.embed_norm or cfg.prefix or cfg.head not in HEADS:
        return None
    return {
        "architectures": [HEADS[cfg.head]],
        "model_type": "gpt2",
        "vocab_size": cfg.vocab,
        "n_embd": cfg.width,
        "n_layer": cfg.depth,
        "n_head": cfg.heads,
        "n_inner": cfg.hidden,
        "n_positions": cfg.context,
        "activation_function": ACTS[cfg.act],
        "layer_norm_epsilon": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        "bos_token_id": None,
        **({"num_labels": cfg.labelled} if cfg.labelled else {}),
    }


def read(given: dict[str, Any]) -> ModelConfig:
    for name, usual in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False), ("add_cross_attention", False)):
        if given.get(name, usual) != usual:
            raise ValueError(f"{name} = {given[name]} of gpt2 is not supported")
    act, labels = names.choice(given, "activation_function", "gelu_new", ACTS), names.classes(given)
    name = (given.get("architectures") or ["GPT2LMHeadModel"])[0]
    if name not in HEADS.values():
        raise ValueError(f"architecture {name} is not supported ({', '.join(sorted(set(HEADS.values())))})")
    head: Head = "lm" if name == HEADS["lm"] else "scalar" if labels == 1 else "sequence"
    return ModelConfig(
        vocab=given["vocab_size"],
        width=given["n_embd"],
        depth=given["n_layer"],
        heads=given["n_head"],
        kv_heads=given["n_head"],
        hidden=given.get("n_inner") or 4 * given["n_embd"],
        context=given["n_positions"],
        head=head,
        labels=labels if head == "sequence" else 0,
        bias="all",
        position="learned",
        ffn="dense",
        act=act,
        norm="layer",
        norm_eps=given.get("layer_norm_epsilon", 1e-5),
        tied=given.get("tie_word_embeddings", True),
    )


def theirs(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    state = dict(state)
    if cfg.tied:
        state.pop("head.weight", None)
    for layer in range(cfg.depth):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"stack.blocks.{layer}.mix.{part}.{kind}") for part in ("query", "key", "value")]
            state[f"transformer.h.{layer}.attn.c_attn.{kind}"] = torch.cat(parts)
    found = names.renamed(state, dict(_names(cfg)))
    return {name: weight.T if name.endswith(TURNED) else weight for name, weight in found.items()}


def ours(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    # The first GPT-2 checkpoints leave out the prefix, and hold the causal mask among the weights.
    state = {name if name.startswith(("transformer.", "lm_head.", "score.")) else f"transformer.{name}": weight for name, weight in state.items()}
    state = {name: weight for name, weight in state.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}
    state = {name: weight.T if name.endswith(TURNED) else weight for name, weight in state.items()}
    for layer in range(cfg.depth):
        for kind in ("weight", "bias"):
            if (whole := state.pop(f"transformer.h.{layer}.attn.c_attn.{kind}", None)) is not None:
                state |= {f"stack.blocks.{layer}.mix.{part}.{kind}": w for part, w in zip(("query", "key", "value"), whole.chunk(3), strict=True)}
    return names.with_head(names.renamed(state, {theirs: ours for ours, theirs in _names(cfg)}), cfg)


def _names(cfg: ModelConfig) -> list[tuple[str, str]]:
    return [*TOP, *names.layers("stack.blocks", "transformer.h", BLOCK, cfg.depth)]
