"""How GGUF spells a model that Hugging Face spells otherwise: keys, names of weights, the order of their rows, rotary scaling.

What is written here follows llama.cpp's own converter (ggml-org/llama.cpp: conversion/llama.py, qwen.py, gpt2.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Config = dict[str, Any]  # a checkpoint's config.json
Metadata = Mapping[str, Any]  # a file's keys


@dataclass(frozen=True)
class Layout:
    """One architecture in both places."""

    model_type: str  # in config.json
    causal: str  # the class of transformers
    keys: Mapping[str, str]  # of the file, behind `ARCHITECTURE.`: of config.json
    outer: Mapping[str, str]  # weights outside of blocks, of the file: of the checkpoint
    blocks: str  # where block weights stand in a checkpoint
    block: Mapping[str, tuple[str, str]]  # of the file: (of the checkpoint, its bias: always, never, or the field of config.json that says)
    constant: Mapping[str, Any]  # what config.json says of every model of this kind
    interleaved: bool = False  # the dimensions of a rotary pair are neighbours in the file, half a head apart in the checkpoint
    transposed: tuple[str, ...] = ()  # matrices that are (in, out) in the checkpoint


def _block(qkv: str, out: str, mlp: str, qk_norm: bool = False) -> dict[str, tuple[str, str]]:
    names = {
        "attn_norm": ("input_layernorm", "never"),
        "attn_q": ("self_attn.q_proj", qkv),
        "attn_k": ("self_attn.k_proj", qkv),
        "attn_v": ("self_attn.v_proj", qkv),
        "attn_output": ("self_attn.o_proj", out),
        "ffn_norm": ("post_attention_layernorm", "never"),
        "ffn_gate": ("mlp.gate_proj", mlp),
        "ffn_up": ("mlp.up_proj", mlp),
        "ffn_down": ("mlp.down_proj", mlp),
    }
    return names | ({"attn_q_norm": ("self_attn.q_norm", "never"), "attn_k_norm": ("self_attn.k_norm", "never")} if qk_norm else {})


KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
QWEN = {"hidden_act": "silu", "use_sliding_window": False}
GPT2 = Layout(
    "gpt2",
    "GPT2LMHeadModel",
    {
        "context_length": "n_positions",
        "embedding_length": "n_embd",
        "block_count": "n_layer",
        "feed_forward_length": "n_inner",
        "attention.head_count": "n_head",
        "attention.layer_norm_epsilon": "layer_norm_epsilon",
    },
    {"token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f", "output": "lm_head"},
    "transformer.h",
    {
        "attn_norm": ("ln_1", "always"),
        "attn_qkv": ("attn.c_attn", "always"),
        "attn_output": ("attn.c_proj", "always"),
        "ffn_norm": ("ln_2", "always"),
        "ffn_up": ("mlp.c_fc", "always"),
        "ffn_down": ("mlp.c_proj", "always"),
    },
    {"activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
)
LAYOUTS = {  # by the file's general.architecture
    "llama": Layout(
        "llama",
        "LlamaForCausalLM",
        KEYS,
        OUTER,
        "model.layers",
        _block("attention_bias", "attention_bias", "mlp_bias"),
        {"hidden_act": "silu"},
        interleaved=True,
    ),
    "qwen2": Layout("qwen2", "Qwen2ForCausalLM", KEYS, OUTER, "model.layers", _block("always", "never", "never"), QWEN),
    "qwen3": Layout("qwen3", "Qwen3ForCausalLM", KEYS, OUTER, "model.layers", _block("never", "never", "never", qk_norm=True), QWEN),
    "gpt2": GPT2,
}
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2"}  # by config.json's model_type


def names(layout: Layout, config: Config) -> dict[str, str]:
    """Every weight of a model: its name in the file, and in the checkpoint."""
    found = {f"{here}.weight": f"{there}.weight" for here, there in layout.outer.items() if here != "output" or not config["tie_word_embeddings"]}
    if layout is GPT2:
        found["output_norm.bias"] = "transformer.ln_f.bias"
    for number in range(config[layout.keys["block_count"]]):
        for here, (there, bias) in layout.block.items():
            endings = ("weight", "bias") if bias == "always" or config.get(bias) else ("weight",)
            found |= {f"blk.{number}.{here}.{ending}": f"{layout.blocks}.{number}.{there}.{ending}" for ending in endings}
    return found


def is_transposed(layout: Layout, name: str) -> bool:
    return name.endswith(".weight") and name.split(".")[-2] in layout.transposed


def reorder(data: Array, name: str, layout: Layout, config: Config, to: Literal["file", "checkpoint"]) -> Array:
    """A weight of one place (`name`: in the file) in the other's order of rows and columns."""
    if is_transposed(layout, name):
        return data.T
    part = name.split(".")[-2]
    if not layout.interleaved or part not in ("attn_q", "attn_k"):
        return data
    heads = config[layout.keys["attention.head_count" if part == "attn_q" else "attention.head_count_kv"]]
    halves = (heads, 2, -1) if to == "file" else (heads, data.shape[0] // heads // 2, 2)
    return data.reshape(*halves, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)


def config_of(given: Metadata, shapes: Mapping[str, tuple[int, ...]], factors: Array | None) -> Config:
    """config.json of a file. `shapes`: of its tensors; `factors`: its tensor rope_freqs.weight, if any. ValueError where a key is wrong."""
    architecture = given["general.architecture"]
    layout = LAYOUTS[architecture]
    if "token_embd.weight" not in shapes:
        raise ValueError("it holds no token_embd.weight, so it is no language model")
    config: Config = {"architectures": [layout.causal], "model_type": layout.model_type, **layout.constant, "dtype": "float32"}
    for key, name in layout.keys.items():
        value = given.get(f"{architecture}.{key}")
        if value is None and key == "attention.head_count_kv":
            value = config["num_attention_heads"]
        if value is None and key == "attention.key_length":
            value = config["hidden_size"] // config["num_attention_heads"]
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{architecture}.{key} must be a number above 0, not {value!r}")
        config[name] = _rounded(value)
    _check(architecture, layout, config, shapes)
    config["vocab_size"] = shapes["token_embd.weight"][0]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    for field, part in (("attention_bias", "attn_output"), ("mlp_bias", "ffn_up")):
        if any(bias == field for _, bias in layout.block.values()):
            config[field] = f"blk.0.{part}.bias" in shapes
    return config if layout is GPT2 else config | _rope(given, config, factors)


def _check(architecture: str, layout: Layout, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """ValueError where a file's keys contradict its tensors, so that nobody counts blocks that are not there or cuts heads out of place."""
    depth = config[layout.keys["block_count"]]
    if depth > len(shapes):
        raise ValueError(f"{architecture}.block_count = {depth}, but there are {len(shapes)} tensors in all")
    if layout is GPT2:
        return
    for part, heads in (("attn_q", "num_attention_heads"), ("attn_k", "num_key_value_heads")):
        rows = shapes.get(f"blk.0.{part}.weight", (0,))[0]
        if rows != config[heads] * config["head_dim"]:
            raise ValueError(f"blk.0.{part}.weight has {rows} rows, its keys say {config[heads]} heads of {config['head_dim']}")


def metadata_of(config: Config) -> tuple[dict[str, Any], Array | None]:
    """A file's keys for config.json, and its tensor rope_freqs.weight, if it needs one.

    ValueError where llama.cpp would compute something else than config.json says.
    """
    architecture = ARCHITECTURES.get(config.get("model_type", ""))
    if architecture is None:
        raise ValueError(f"model_type {config.get('model_type')!r} is none that can be written as GGUF ({', '.join(ARCHITECTURES)})")
    layout = LAYOUTS[architecture]
    for key, value in layout.constant.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key} = {config[key]!r} has no place in GGUF's {architecture}, which has {value!r}")
    window = config.get("sliding_window")
    if architecture == "llama" and window and window < config["max_position_embeddings"]:
        raise ValueError(f"sliding_window = {window} has no place in GGUF's {architecture}, which sees the whole context")
    found = {f"{architecture}.{key}": filled(config, layout)[name] for key, name in layout.keys.items()}
    found |= {"general.architecture": architecture, f"{architecture}.vocab_size": config["vocab_size"]}
    if layout is GPT2:
        return found, None
    width = found[f"{architecture}.attention.key_length"]
    found |= {f"{architecture}.attention.value_length": width, f"{architecture}.rope.dimension_count": width}
    scaling, factors = _scaling(config, width)
    return found | {f"{architecture}.rope.{key}": value for key, value in scaling.items()}, factors


def filled(config: Config, layout: Layout) -> Config:
    """config.json with what it may leave out."""
    if layout is GPT2:
        return config | {"n_inner": config.get("n_inner") or 4 * config["n_embd"], "tie_word_embeddings": config.get("tie_word_embeddings", True)}
    heads = config["num_attention_heads"]
    defaults = {"num_key_value_heads": heads, "head_dim": config["hidden_size"] // heads, "tie_word_embeddings": False}
    return defaults | {key: value for key, value in config.items() if value is not None}


def _rope(given: Metadata, config: Config, factors: Array | None) -> Config:
    """The rotary part of config.json."""
    key = f"{given['general.architecture']}.rope"
    base, width = _rounded(given.get(f"{key}.freq_base", 10000.0)), config["head_dim"]
    if given.get(f"{key}.dimension_count", width) != width:
        raise ValueError(f"{key}.dimension_count = {given[f'{key}.dimension_count']}: turning a part of a head's {width} dimensions is not supported")
    kind = given.get(f"{key}.scaling.type", "none")
    factor = _rounded(given.get(f"{key}.scaling.factor", given.get(f"{key}.scale_linear", 1.0)))
    before = given.get(f"{key}.scaling.original_context_length")
    scaling: Config | None = None
    if factors is not None:
        scaling = _recognised(factors, base, width, before)
    elif kind == "yarn":
        scaling = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": before or int(config["max_position_embeddings"] / factor),
        }
    elif kind == "linear" or factor != 1.0:
        scaling = {"rope_type": "linear", "factor": factor}
    elif kind != "none":
        raise ValueError(f"{key}.scaling.type = {kind!r} is not supported (none, linear, yarn, and Llama 3's factors)")
    return {"rope_theta": base, "rope_scaling": scaling}


def _scaling(config: Config, width: int) -> tuple[dict[str, Any], Array | None]:
    """The rotary keys of a file, behind `ARCHITECTURE.rope.`, and the factors of Llama 3's scaling."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind, factor, before = (
        rope.get("rope_type") or rope.get("type") or "default",
        rope.get("factor", 1.0),
        rope.get("original_max_position_embeddings"),
    )
    found = {"freq_base": base}
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ValueError(f"partial_rotary_factor = {rope.get('partial_rotary_factor')} has no place in this file")
    if kind == "default":
        return found, None
    if kind == "linear":
        return found | {"scaling.type": "linear", "scaling.factor": factor}, None
    if kind == "yarn" and all(rope.get(key) in (None, usual) for key, usual in YARN.items()):
        before = before or int(config["max_position_embeddings"] / factor)
        return found | {"scaling.type": "yarn", "scaling.factor": factor, "scaling.original_context_length": before}, None
    if kind == "llama3":
        before = before or config["max_position_embeddings"]
        factors = llama3_factors(base, width, factor, before, rope.get("low_freq_factor", 1.0), rope.get("high_freq_factor", 4.0))
        # The tensor says all; the context only helps a reader to tell what it was made from.
        return found | {"scaling.original_context_length": before}, factors
    raise ValueError(f"rope scaling {rope} has no place in GGUF (default, linear, llama3, and yarn with {YARN})")


YARN = {"beta_fast": 32, "beta_slow": 1, "attention_factor": None, "mscale": None, "mscale_all_dim": None}  # what llama.cpp takes for granted


def llama3_factors(base: float, width: int, factor: float, before: float, low: float = 1.0, high: float = 4.0) -> Array:
    """How much slower each of the width/2 rotary pairs turns, in Llama 3.1's scaling from a context of `before` tokens. fp32."""
    frequency = base ** -(np.arange(0, width, 2) / width)
    turns = before * frequency / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / factor + kept)).astype(np.float32)


def _recognised(factors: Array, base: float, width: int, before: int | None) -> Config:
    """The scaling that `factors` were made with. The file does not say it, so those of Llama 3.1 and later are tried."""
    factor = float(factors.max())
    for context in (before, 8192):
        if context and np.allclose(llama3_factors(base, width, factor, context), factors, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": context,
            }
    raise ValueError("rope_freqs.weight is none of Llama 3's, so its rotary scaling cannot be told")


def _rounded(value: float) -> Any:
    """1e-05 where a file's fp32 is 9.999999747378752e-06: the shortest number that is the same in fp32."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
