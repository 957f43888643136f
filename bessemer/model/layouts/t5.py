"""T5: an encoder and a decoder, a bias by distance, no biases otherwise, no scale on scores.

Two of its habits have no field with us, since a factor on a weight says the same: scores are not divided by sqrt(head_width), so queries
here are that much longer; and a tied head divides hidden states by sqrt(width), so the decoder's last norm here is that much smaller.
"""

from typing import Any

from torch import Tensor

from bessemer.model.config import Act, Ffn, ModelConfig
from bessemer.model.layouts import names

TYPES = ("t5",)
FEEDS: dict[tuple[Ffn, Act], str] = {
    ("dense", "relu"): "relu",
    ("gated", "gelu_tanh"): "gated-gelu",
    ("gated", "silu"): "gated-silu",
    ("dense", "gelu_tanh"): "gelu_new",
}

ATTENTION = [("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")]


def config(cfg: ModelConfig) -> dict[str, Any] | None:
    t5 = cfg.shape == "encdec" and cfg.position == "bias" and cfg.norm == "rms" and cfg.norm_at == "pre" and cfg.bias == "none"
    feed = FEEDS.get((cfg.ffn, cfg.act))
    if not t5 or feed is None or cfg.qk_norm or cfg.embed_norm or cfg.kv_heads != cfg.heads:
        return None
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": cfg.vocab,
        "d_model": cfg.width,
        "d_kv": cfg.head_width,
        "d_ff": cfg.hidden,
        "num_layers": cfg.encoder_depth or cfg.depth,
        "num_decoder_layers": cfg.depth,
        "num_heads": cfg.heads,
        "relative_attention_num_buckets": cfg.buckets,
        "relative_attention_max_distance": cfg.reach,
        "layer_norm_epsilon": cfg.norm_eps,
        "feed_forward_proj": feed,
        "tie_word_embeddings": cfg.tied,
        "scale_decoder_outputs": cfg.tied,
        "n_positions": cfg.context,
    }


def read(given: dict[str, Any]) -> ModelConfig:
    feed = names.choice(given, "feed_forward_proj", "relu", FEEDS)
    name = (given.get("architectures") or ["T5ForConditionalGeneration"])[0]
    if name not in ("T5ForConditionalGeneration", "T5WithLMHeadModel"):
        raise ValueError(f"architecture {name} is not supported (T5ForConditionalGeneration)")
    decoder = given.get("num_decoder_layers") or given["num_layers"]
    return ModelConfig(
        vocab=given["vocab_size"],
        width=given["d_model"],
        depth=decoder,
        heads=given["num_heads"],
        kv_heads=given["num_heads"],
        head_width=given["d_kv"],
        hidden=given["d_ff"],
        context=given.get("n_positions", 512),
        shape="encdec",
        encoder_depth=0 if given["num_layers"] == decoder else given["num_layers"],
        position="bias",
        buckets=given.get("relative_attention_num_buckets", 32),
        reach=given.get("relative_attention_max_distance", 128),
        ffn=feed[0],
        act=feed[1],
        norm_eps=given.get("layer_norm_epsilon", 1e-6),
        # transformers 5 calls every T5 tied, and says by the scale which one truly is.
        tied=given.get("scale_decoder_outputs", given.get("tie_word_embeddings", True)),
    )


def theirs(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    state = _scaled(state, cfg, cfg.head_width**-0.5, cfg.width**0.5)
    if cfg.tied:
        state.pop("head.weight", None)
    return names.renamed(state, dict(_names(cfg)))


def ours(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    state = {name: weight for name, weight in state.items() if not name.endswith("coder.embed_tokens.weight")}
    if cfg.tied:
        state.pop("lm_head.weight", None)
    # Old checkpoints hold a table for the cross attention that nobody reads.
    state.pop("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", None)
    found = names.renamed(state, {theirs: ours for ours, theirs in _names(cfg)})
    return names.with_head(_scaled(found, cfg, cfg.head_width**0.5, cfg.width**-0.5), cfg)


def _scaled(state: dict[str, Tensor], cfg: ModelConfig, query: float, last: float) -> dict[str, Tensor]:
    """With queries, and before a tied head the last norm, times a factor."""
    factors = {name: query for name in state if name.endswith(("mix.query.weight", "cross.query.weight"))}
    factors |= {"stack.norm.weight": last} if cfg.tied else {}
    return {name: weight * factors[name] if name in factors else weight for name, weight in state.items()}


def _names(cfg: ModelConfig) -> list[tuple[str, str]]:
    found = [("embed.weight", "shared.weight"), ("head.weight", "lm_head.weight")]
    for ours, theirs, depth, cross in (("encoder", "encoder", cfg.encoder_depth or cfg.depth, False), ("stack", "decoder", cfg.depth, True)):
        last = 2 if cross else 1
        feed = f"layer.{last}.DenseReluDense"
        block = [("mix_norm.weight", "layer.0.layer_norm.weight"), ("ffn_norm.weight", f"layer.{last}.layer_norm.weight")]
        block += [(f"mix.{mine}.weight", f"layer.0.SelfAttention.{yours}.weight") for mine, yours in ATTENTION]
        if cross:
            block += [("cross_norm.weight", "layer.1.layer_norm.weight")]
            block += [(f"cross.{mine}.weight", f"layer.1.EncDecAttention.{yours}.weight") for mine, yours in ATTENTION]
        gated = [("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")]
        block += [
            (f"ffn.{mine}.weight", f"{feed}.{yours}.weight") for mine, yours in (gated if cfg.ffn == "gated" else [("up", "wi"), ("down", "wo")])
        ]
        found += names.layers(f"{ours}.blocks", f"{theirs}.block", block, depth)
        found += [(f"{ours}.norm.weight", f"{theirs}.final_layer_norm.weight")]
        found += [(f"{ours}.bias.weight", f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight")]
    return found
