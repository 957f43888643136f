"""BERT: an encoder with norms behind its sums, learned positions and kinds of segments."""

from typing import Any

from torch import Tensor

from bessemer.model.config import Act, Head, ModelConfig
from bessemer.model.layouts import names

TYPES = ("bert",)
ACTS: dict[Act, str] = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "silu", "relu2": "relu2"}
HEADS: dict[Head, str] = {
    "lm": "BertForMaskedLM",
    "lm+pair": "BertForPreTraining",
    "scalar": "BertForSequenceClassification",
    "sequence": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
    "span": "BertForQuestionAnswering",
}

PAIRS = [
    ("embed_norm", "bert.embeddings.LayerNorm"),
    ("transform.0", "cls.predictions.transform.dense"),
    ("transform.2", "cls.predictions.transform.LayerNorm"),
    ("pool.0", "bert.pooler.dense"),
]
BLOCK = [
    (f"{ours}.{kind}", f"{theirs}.{kind}")
    for ours, theirs in [
        ("mix.query", "attention.self.query"),
        ("mix.key", "attention.self.key"),
        ("mix.value", "attention.self.value"),
        ("mix.out", "attention.output.dense"),
        ("mix_norm", "attention.output.LayerNorm"),
        ("ffn.up", "intermediate.dense"),
        ("ffn.down", "output.dense"),
        ("ffn_norm", "output.LayerNorm"),
    ]
    for kind in ("weight", "bias")
]


def config(cfg: ModelConfig) -> dict[str, Any] | None:
    bert = cfg.shape == "encoder" and cfg.position == "learned" and cfg.norm == "layer" and cfg.norm_at == "post" and cfg.embed_norm
    plain = cfg.bias == "all" and cfg.ffn == "dense" and cfg.kv_heads == cfg.heads and cfg.heads * cfg.head_width == cfg.width
    if not (bert and plain) or cfg.qk_norm or not cfg.types or cfg.head == "scalar":
        return None
    return {
        "architectures": [HEADS[cfg.head]],
        "model_type": "bert",
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.depth,
        "num_attention_heads": cfg.heads,
        "intermediate_size": cfg.hidden,
        "hidden_act": ACTS[cfg.act],
        "max_position_embeddings": cfg.context,
        "type_vocab_size": cfg.types,
        "layer_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        **({"num_labels": cfg.labels} if cfg.labels else {}),
    }


def read(given: dict[str, Any]) -> ModelConfig:
    if given.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(f"position_embedding_type {given['position_embedding_type']!r} of bert is not supported (absolute)")
    if given.get("is_decoder"):
        raise ValueError("is_decoder of bert is not supported")
    act = names.choice(given, "hidden_act", "gelu", ACTS)
    name = (given.get("architectures") or ["BertForMaskedLM"])[0]
    head = {theirs: ours for ours, theirs in HEADS.items()}.get(name)
    if head is None:
        raise ValueError(f"architecture {name} is not supported ({', '.join(sorted(set(HEADS.values())))})")
    return ModelConfig(
        vocab=given["vocab_size"],
        width=given["hidden_size"],
        depth=given["num_hidden_layers"],
        heads=given["num_attention_heads"],
        kv_heads=given["num_attention_heads"],
        hidden=given["intermediate_size"],
        context=given["max_position_embeddings"],
        shape="encoder",
        head=head,
        labels=names.classes(given) if head in ("sequence", "tokens") else 0,
        bias="all",
        position="learned",
        ffn="dense",
        act=act,
        norm="layer",
        norm_at="post",
        norm_eps=given.get("layer_norm_eps", 1e-12),
        embed_norm=True,
        types=given.get("type_vocab_size", 2),
        tied=given.get("tie_word_embeddings", True),
    )


def theirs(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    found = names.renamed(state, dict(_names(cfg)))
    if cfg.tied:
        found.pop("cls.predictions.decoder.weight", None)
    if "cls.predictions.decoder.bias" in found:  # older readers know the bias by this name
        found["cls.predictions.bias"] = found["cls.predictions.decoder.bias"].clone()
    return found


def ours(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    state = {name.replace(".gamma", ".weight").replace(".beta", ".bias"): weight for name, weight in state.items()}
    state.pop("bert.embeddings.position_ids", None)
    bias = state.pop("cls.predictions.bias", None)
    if cfg.has_lm and bias is not None:
        state.setdefault("cls.predictions.decoder.bias", bias)
    # BERT's published weights hold the heads of its pretraining, and a checkpoint for one head may carry another's pooler.
    unused = ["cls.seq_relationship."] * (cfg.head == "lm") + ["bert.pooler."] * (cfg.head not in ("lm+pair", "sequence"))
    state = {name: weight for name, weight in state.items() if not name.startswith(tuple(unused))}
    return names.with_head(names.renamed(state, {theirs: ours for ours, theirs in _names(cfg)}), cfg)


def _names(cfg: ModelConfig) -> list[tuple[str, str]]:
    label = {"lm+pair": "cls.seq_relationship", "span": "qa_outputs"}.get(cfg.head, "classifier")
    pairs = [*PAIRS, ("label", label), ("head", "cls.predictions.decoder")]
    return [
        ("embed.weight", "bert.embeddings.word_embeddings.weight"),
        ("place.weight", "bert.embeddings.position_embeddings.weight"),
        ("kind.weight", "bert.embeddings.token_type_embeddings.weight"),
        *((f"{ours}.{kind}", f"{theirs}.{kind}") for ours, theirs in pairs for kind in ("weight", "bias")),
        *names.layers("stack.blocks", "bert.encoder.layer", BLOCK, cfg.depth),
    ]
