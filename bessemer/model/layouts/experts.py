"""Mixtures of experts in a Llama's blocks: Mixtral, Qwen2-MoE (experts for all, with a gate), Qwen3-MoE (normed queries and keys), and
GLM-4-MoE and dots.llm1 (sigmoid scores, a bias on the choice, experts for all)."""

from typing import Any

import torch
from torch import Tensor

from bessemer.model.config import ModelConfig
from bessemer.model.layouts import llama, names

CLASSES = {"mixtral": "Mixtral", "qwen2_moe": "Qwen2Moe", "qwen3_moe": "Qwen3Moe", "glm4_moe": "Glm4Moe", "dots1": "Dots1"}
TYPES = tuple(CLASSES)
# Values that say: experts in every layer, chosen one by one.
PLAIN: dict[str, tuple[Any, ...]] = {
    "mlp_only_layers": (None, []),
    "decoder_sparse_step": (None, 1),
    "n_group": (None, 1),
    "first_k_dense_replace": (None, 0),
}


def config(cfg: ModelConfig) -> dict[str, Any] | None:
    kind = _kind(cfg)
    if kind is None:
        return None
    given = llama.base(cfg, kind, CLASSES[kind])
    given |= {"num_experts_per_tok": cfg.top_k, "moe_intermediate_size": cfg.hidden, "norm_topk_prob": cfg.norm_topk}
    if kind in ("glm4_moe", "dots1"):
        given["rope_parameters"]["partial_rotary_factor"] = 1.0
        given |= {"n_routed_experts": cfg.experts, "n_shared_experts": cfg.shared_experts, "routed_scaling_factor": cfg.routed_scale}
        return given | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 0, "num_nextn_predict_layers": 0, "use_qk_norm": cfg.qk_norm}
    given["router_aux_loss_coef"] = cfg.aux_weight if cfg.balance == "aux" else 0.0
    if kind == "mixtral":
        return given | {"num_local_experts": cfg.experts}
    if kind == "qwen2_moe":
        given |= {"shared_expert_intermediate_size": cfg.shared_experts * cfg.hidden, "qkv_bias": cfg.bias == "qkv"}
    return given | {"num_experts": cfg.experts, "decoder_sparse_step": 1, "mlp_only_layers": []}


def read(given: dict[str, Any]) -> ModelConfig:
    kind = given["model_type"]
    for name, allowed in PLAIN.items():
        usual = 1 if name == "first_k_dense_replace" and kind == "glm4_moe" else None
        if given.get(name, usual) not in allowed:
            raise ValueError(
                f"{name} = {given.get(name, usual)} of {kind} is not supported, only {allowed[-1]}: all layers have experts, in one group"
            )
    if kind in ("qwen3_moe", "dots1") and given.get("attention_bias"):
        raise ValueError(f"attention_bias of {kind} is not supported")
    sigmoid = kind in ("glm4_moe", "dots1")
    hidden = given["intermediate_size" if kind == "mixtral" else "moe_intermediate_size"]
    coefficient = given.get("router_aux_loss_coef", 0.001)
    biased = given.get("qkv_bias", True) if kind == "qwen2_moe" else given.get("attention_bias", False) and kind == "glm4_moe"
    return ModelConfig(
        **llama.fields(given),
        hidden=hidden,
        bias="qkv" if biased else "none",
        qk_norm=kind in ("qwen3_moe", "dots1") or given.get("use_qk_norm", False),
        ffn="moe",
        experts=_experts(given),
        top_k=given["num_experts_per_tok"],
        shared_experts=_shared(given, hidden),
        shared_gate=kind == "qwen2_moe",
        router="sigmoid" if sigmoid else "softmax",
        norm_topk=kind == "mixtral" or given.get("norm_topk_prob", kind == "glm4_moe"),
        routed_scale=given.get("routed_scaling_factor", 1.0) if sigmoid else 1.0,
        **({"balance": "bias"} if sigmoid else {"balance": "aux", "aux_weight": coefficient} if coefficient else {"balance": "none"}),
    )


def theirs(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    found, kind = dict(state), _kind(cfg)
    assert kind is not None
    gate, up, down = ("w1", "w3", "w2") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    for layer in range(cfg.depth):
        there = f"model.layers.{layer}.{_place(kind)}.experts"
        both, back = (found.pop(f"stack.blocks.{layer}.ffn.{name}") for name in ("gate_up", "down"))
        for expert in range(cfg.experts):
            parts = (*both[expert].chunk(2), back[expert])
            found |= {f"{there}.{expert}.{name}.weight": part for name, part in zip((gate, up, down), parts, strict=True)}
    return names.renamed(llama.theirs(found, cfg), dict(_names(cfg, kind)))


def ours(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    # How files were written, not what the model is, tells the kind: dots.llm1 and GLM hold the same models.
    kind = "mixtral" if any(".block_sparse_moe." in name for name in state) else "qwen2_moe" if cfg.shared_gate else "dots1"
    found = dict(state)
    gate, up, down = ("w1", "w3", "w2") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    for layer in range(cfg.depth):
        there, here = f"model.layers.{layer}.{_place(kind)}.experts", f"stack.blocks.{layer}.ffn"
        if f"{there}.{cfg.experts - 1}.{down}.weight" in found:
            each = range(cfg.experts)
            found[f"{here}.gate_up"] = torch.stack([torch.cat([found.pop(f"{there}.{i}.{name}.weight") for name in (gate, up)]) for i in each])
            found[f"{here}.down"] = torch.stack([found.pop(f"{there}.{i}.{down}.weight") for i in each])
    return llama.ours(names.renamed(found, {theirs: ours for ours, theirs in _names(cfg, kind)}), cfg)


def _kind(cfg: ModelConfig) -> str | None:
    """The model_type that holds these experts and this attention."""
    if cfg.ffn != "moe" or not llama.plain(cfg):
        return None
    if cfg.router == "sigmoid":
        if cfg.balance != "bias" or not cfg.shared_experts or cfg.shared_gate or cfg.head != "lm":
            return None
        return "dots1" if cfg.qk_norm and cfg.bias == "none" else None if cfg.window else "glm4_moe"
    if cfg.routed_scale != 1:
        return None
    if cfg.shared_experts:
        return "qwen2_moe" if cfg.shared_gate and not cfg.qk_norm else None
    if cfg.bias != "none":
        return None
    return "qwen3_moe" if cfg.qk_norm else "mixtral" if cfg.norm_topk else None


def _experts(given: dict[str, Any]) -> int:
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if given.get(name):
            return given[name]
    raise ValueError("config.json does not say how many experts there are (num_experts, num_local_experts or n_routed_experts)")


def _shared(given: dict[str, Any], hidden: int) -> int:
    """Experts that every token visits; Qwen2-MoE says how wide they are together."""
    if given["model_type"] in ("glm4_moe", "dots1"):
        return given.get("n_shared_experts") or 0
    width = given["shared_expert_intermediate_size"] if given["model_type"] == "qwen2_moe" else 0
    if width % hidden:
        raise ValueError(f"shared_expert_intermediate_size ({width}) must be a multiple of moe_intermediate_size ({hidden})")
    return width // hidden


def _place(kind: str) -> str:
    return "block_sparse_moe" if kind == "mixtral" else "mlp"


def _names(cfg: ModelConfig, kind: str) -> list[tuple[str, str]]:
    there, shared = _place(kind), "shared_expert" if kind == "qwen2_moe" else "shared_experts"
    block = [("router.weight", "gate.weight"), ("expert_bias", "gate.e_score_correction_bias"), ("shared_gate.weight", "shared_expert_gate.weight")]
    block += [(f"shared.{part}.weight", f"{shared}.{part}_proj.weight") for part in ("gate", "up", "down")]
    return names.layers("stack.blocks", "model.layers", [(f"ffn.{ours}", f"{there}.{theirs}") for ours, theirs in block], cfg.depth)
