"""Llama and what descends from it: SmolLM2, Mistral (sliding window), Qwen2 (biases), Qwen3 (normed queries and keys)."""

from typing import Any

from torch import Tensor

from bessemer.model.config import Bias, ModelConfig
from bessemer.model.layouts import names
from bessemer.model.position import LLAMA_HIGH, LLAMA_LOW, YARN_FAST, YARN_SLOW, ntk_base

CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
TYPES = tuple(CLASSES)
HEADS = {"lm": "ForCausalLM", "scalar": "ForSequenceClassification", "sequence": "ForSequenceClassification"}
ACTS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "relu2": "relu2"}

# Fields that other readers of such a config.json heed, and the values that change nothing.
PLAIN: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (None, 1.0),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "dual_chunk_attention_config": (None,),
}

TOP = [("embed.weight", "model.embed_tokens.weight"), ("stack.norm.weight", "model.norm.weight"), ("label.weight", "score.weight")]
BLOCK = [
    ("mix_norm.weight", "input_layernorm.weight"),
    *((f"mix.{ours}.{kind}", f"self_attn.{theirs}.{kind}") for ours, theirs in zip(
        ("query", "key", "value", "out"), ("q_proj", "k_proj", "v_proj", "o_proj"), strict=True) for kind in ("weight", "bias")),
    ("mix.query_norm.weight", "self_attn.q_norm.weight"),
    ("mix.key_norm.weight", "self_attn.k_norm.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    *((f"ffn.{ours}.{kind}", f"mlp.{ours}_proj.{kind}") for ours in ("gate", "up", "down") for kind in ("weight", "bias")),
]  # fmt: skip


def config(cfg: ModelConfig) -> dict[str, Any] | None:
    kinds = {
        (False, "none"): "mistral" if cfg.window else "llama",
        (False, "all"): None if cfg.window else "llama",
        (False, "qkv"): "qwen2",
        (True, "none"): "qwen3",
    }
    kind = kinds.get((cfg.qk_norm, cfg.bias))
    return base(cfg, kind, CLASSES[kind]) if kind and cfg.ffn == "gated" and plain(cfg) else None


def plain(cfg: ModelConfig) -> bool:
    """Whether the model is one of these, leaving aside its biases, its norms of heads and its feed-forward."""
    decoder = cfg.shape == "decoder" and cfg.mixer == "attention" and cfg.position == "rope" and cfg.norm == "rms" and cfg.norm_at == "pre"
    return decoder and not cfg.embed_norm and not cfg.prefix and cfg.head in HEADS


def base(cfg: ModelConfig, kind: str, name: str) -> dict[str, Any]:
    """config.json of a decoder of this kind, all but its feed-forward's own fields."""
    window: dict[str, Any] = {"sliding_window": cfg.window or None}
    if kind.startswith("qwen"):
        window |= {"use_sliding_window": cfg.window > 0, "max_window_layers": 0}
    if kind in ("qwen2_moe", "dots1"):  # which else take every second layer, or none
        window |= {"layer_types": ["sliding_attention" if cfg.window else "full_attention"] * cfg.depth}
    labels = {"num_labels": cfg.labelled} if cfg.labelled else {}
    return {
        "architectures": [name + HEADS[cfg.head]],
        "model_type": kind,
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.depth,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_width,
        "intermediate_size": cfg.hidden,
        "hidden_act": ACTS[cfg.act],
        "max_position_embeddings": cfg.context,
        **rope(cfg),
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        "attention_bias": cfg.bias != "none",
        "mlp_bias": cfg.bias == "all",
        **(window if kind != "llama" else {}),
        **labels,
        "bos_token_id": None,
    }


def read(given: dict[str, Any]) -> ModelConfig:
    kind = given["model_type"]
    if kind == "llama" and bool(given.get("attention_bias")) != bool(given.get("mlp_bias")):
        raise ValueError("attention_bias without mlp_bias, or the reverse, is not supported: both or none")
    if kind == "qwen3" and given.get("attention_bias"):
        raise ValueError("attention_bias of qwen3 is not supported")
    bias: Bias = "qkv" if kind == "qwen2" else "all" if kind == "llama" and given.get("attention_bias") else "none"
    return ModelConfig(**fields(given), hidden=given["intermediate_size"], bias=bias, qk_norm=kind == "qwen3")


def fields(given: dict[str, Any]) -> dict[str, Any]:
    """What the config.json of any of these decoders says, but for biases and feed-forward."""
    kind, heads = given["model_type"], given["num_attention_heads"]
    for name, allowed in PLAIN.items():
        if given.get(name) not in allowed:
            raise ValueError(f"{name} = {given[name]} of {kind} is not supported")
    return {
        "vocab": given["vocab_size"],
        "width": given["hidden_size"],
        "depth": given["num_hidden_layers"],
        "heads": heads,
        "kv_heads": given.get("num_key_value_heads") or heads,
        "head_width": given.get("head_dim") or (128 if kind == "qwen3" else given["hidden_size"] // heads),
        "act": names.choice(given, "hidden_act", "silu", ACTS),
        "context": given["max_position_embeddings"],
        "norm_eps": given.get("rms_norm_eps", 1e-5 if kind in ("mixtral", "glm4_moe") else 1e-6),
        "tied": given.get("tie_word_embeddings", False),
        "window": _window(given),
        **_rope(given),
        **_head(given),
    }


def theirs(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    found = names.renamed(state, dict(_names(cfg)))
    if cfg.tied:
        found.pop("lm_head.weight", None)  # stored once, as the embedding
    return found


def ours(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    known = {theirs: ours for ours, theirs in _names(cfg)}
    kept = {name: weight for name, weight in state.items() if not name.endswith("rotary_emb.inv_freq")}
    return names.with_head(names.renamed(kept, known), cfg)


def rope(cfg: ModelConfig) -> dict[str, Any]:
    """The fields of config.json on rotary positions."""
    before = cfg.rope_context or round(cfg.context / cfg.rope_factor)
    theta = ntk_base(cfg) if cfg.rope_scaling == "ntk" else cfg.rope_base
    given: dict[str, Any] = {"rope_type": "default" if cfg.rope_scaling in ("none", "ntk") else cfg.rope_scaling, "rope_theta": theta}
    if given["rope_type"] != "default":
        given["factor"] = cfg.rope_factor
    if cfg.rope_scaling in ("yarn", "llama3"):
        given["original_max_position_embeddings"] = before
    if cfg.rope_scaling == "llama3":
        given |= {"low_freq_factor": LLAMA_LOW, "high_freq_factor": LLAMA_HIGH}
    return {"rope_theta": theta, "rope_parameters": given}


def _rope(given: dict[str, Any]) -> dict[str, Any]:
    scaling = given.get("rope_parameters") or given.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    usual = 1e6 if given["model_type"] == "mixtral" else 10000.0
    found = {"rope_base": float(scaling.get("rope_theta") or given.get("rope_theta") or usual)}
    partial = scaling.get("partial_rotary_factor", 0.5 if given["model_type"] == "glm4_moe" else 1.0)
    if partial != 1.0:
        raise ValueError(f"partial_rotary_factor {partial} of {given['model_type']} is not supported, only 1: all of a head turns")
    if kind == "default":
        return found
    if kind not in ("linear", "yarn", "llama3"):
        raise ValueError(f"rope_type {kind!r} is not supported (default, linear, yarn, llama3)")
    fixed: dict[str, Any] = {
        "beta_fast": YARN_FAST,
        "beta_slow": YARN_SLOW,
        "low_freq_factor": LLAMA_LOW,
        "high_freq_factor": LLAMA_HIGH,
        "truncate": True,
    }
    fixed |= dict.fromkeys(("attention_factor", "mscale", "mscale_all_dim"))
    for name, value in fixed.items():
        if scaling.get(name, value) != value:
            raise ValueError(f"{name} = {scaling[name]} of rope_type {kind} is not supported, only {value}")
    before = scaling.get("original_max_position_embeddings") or given.get("original_max_position_embeddings") or 0
    return {**found, "rope_scaling": kind, "rope_factor": float(scaling["factor"]), "rope_context": before}


def _window(given: dict[str, Any]) -> int:
    window = given.get("sliding_window") or 0
    if not window or window >= given["max_position_embeddings"]:  # as wide as the context is no window
        return 0
    layers = set(given.get("layer_types") or ())
    if given["model_type"].startswith("qwen") and not given.get("use_sliding_window"):
        return 0
    if not layers and given["model_type"] in ("qwen2", "qwen3", "qwen2_moe", "dots1") and given.get("max_window_layers"):
        layers = {"full_attention", "sliding_attention"}
    if len(layers) > 1:
        raise ValueError(f"a sliding_window ({window}) in some layers only is not supported: it holds for all layers or for none")
    return 0 if layers == {"full_attention"} else window


def _head(given: dict[str, Any]) -> dict[str, Any]:
    name = (given.get("architectures") or ["ForCausalLM"])[0]
    if name.endswith("ForSequenceClassification"):
        labels = names.classes(given)
        return {"head": "scalar"} if labels == 1 else {"head": "sequence", "labels": labels}
    if not name.endswith("ForCausalLM"):
        raise ValueError(f"architecture {name} is not supported (ForCausalLM, ForSequenceClassification)")
    return {"head": "lm"}


def _names(cfg: ModelConfig) -> list[tuple[str, str]]:
    return [*TOP, ("head.weight", "lm_head.weight"), *names.layers("stack.blocks", "model.layers", BLOCK, cfg.depth)]
