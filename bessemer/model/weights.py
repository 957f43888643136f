"""Checkpoints: a folder in Hugging Face's layout. The only file of model/ that touches disk.

model.safetensors  config.json  generation_config.json  tokenizer.json  tokenizer_config.json  chat_template.jinja
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bessemer.core import artifact
from bessemer.model.config import ModelConfig
from bessemer.model.decoder import Decoder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

# Our names and Llama's, (ours, theirs). Squared ReLU has no gate, so it is no Llama: it keeps the same names under its own type.
TOP = [("embed.weight", "model.embed_tokens.weight"), ("norm.weight", "model.norm.weight"), ("head.weight", "lm_head.weight")]
BLOCK = [
    ("mix_norm.weight", "input_layernorm.weight"),
    ("mix.query.weight", "self_attn.q_proj.weight"),
    ("mix.key.weight", "self_attn.k_proj.weight"),
    ("mix.value.weight", "self_attn.v_proj.weight"),
    ("mix.out.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn.gate.weight", "mlp.gate_proj.weight"),
    ("ffn.up.weight", "mlp.up_proj.weight"),
    ("ffn.down.weight", "mlp.down_proj.weight"),
]


def save(model: Decoder, folder: Path, tokenizer: Path, end: Sequence[int]) -> None:
    """Write a complete checkpoint: weights in fp32, config, the tokenizer's files, and the ids that end generation."""
    ours = model.state_dict()
    theirs = {theirs: ours[name].float().contiguous() for name, theirs in _names(model.cfg) if name in ours}
    with artifact.atomic(folder / "model.safetensors") as temporary:
        save_file(theirs, temporary, metadata={"format": "pt"})
    artifact.write_json(folder / "config.json", _to_llama(model.cfg, end))
    artifact.write_json(folder / "generation_config.json", {"eos_token_id": list(end), "pad_token_id": end[-1], "do_sample": False})
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():  # older checkpoints keep their template inside tokenizer_config.json
            shutil.copyfile(tokenizer / name, folder / name)


def load(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Decoder:
    """Open a checkpoint, ready to decode. Errors name the folder and what is wrong with it."""
    cfg = load_config(path)
    try:
        theirs = {name: tensor for file in sorted(path.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise ValueError(f"{path}: weights cannot be read, the file is damaged or cut off ({error})") from None
    model = Decoder(cfg)
    state = {ours: theirs[name] for ours, name in _names(cfg) if name in theirs}
    missing = [name for name in model.state_dict() if name not in state]
    surplus = theirs.keys() - {name for _, name in _names(cfg)}
    if missing or surplus:
        raise ValueError(f"{path}: weights do not fit config.json: missing {sorted(missing)[:3]}, unknown {sorted(surplus)[:3]}")
    for name, tensor in model.state_dict().items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{path}: {name} is {tuple(state[name].shape)}, config.json asks for {tuple(tensor.shape)}")
    model.load_state_dict(state)
    return model.to(device=device, dtype=dtype).eval()


def load_config(path: Path) -> ModelConfig:
    """The architecture of a checkpoint. ValueError where it is one that Bessemer does not build."""
    file = path / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a checkpoint: it holds no config.json")
    given = json.loads(file.read_text(encoding="utf-8"))
    if given.get("model_type") not in ("llama", "bessemer"):
        raise ValueError(f"{path}: model_type {given.get('model_type')!r} is not supported (llama, bessemer)")
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"{path}: rope_type {rope['rope_type']!r} is not supported (default)")
    if given.get("attention_bias") or given.get("mlp_bias"):
        raise ValueError(f"{path}: biases are not supported")
    heads = given["num_attention_heads"]
    return ModelConfig(
        vocab=given["vocab_size"],
        width=given["hidden_size"],
        depth=given["num_hidden_layers"],
        heads=heads,
        kv_heads=given.get("num_key_value_heads") or heads,
        head_width=given.get("head_dim") or given["hidden_size"] // heads,
        hidden=given["intermediate_size"],
        ffn="relu2" if given["model_type"] == "bessemer" else "gated",
        context=given["max_position_embeddings"],
        rope_base=rope.get("rope_theta") or given.get("rope_theta") or 10000.0,
        norm_eps=given["rms_norm_eps"],
        tied=given.get("tie_word_embeddings", False),
    )


def generation_defaults(path: Path) -> dict[str, Any]:
    """How the checkpoint wants to be sampled, and `eos_token_id`, always a list."""
    file = path / "generation_config.json"
    given = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    end = given.get("eos_token_id")
    return {**given, "eos_token_id": end if isinstance(end, list) else [] if end is None else [end]}


def _to_llama(cfg: ModelConfig, end: Sequence[int]) -> dict[str, Any]:
    gated = cfg.ffn == "gated"
    return {
        "architectures": ["LlamaForCausalLM" if gated else "BessemerForCausalLM"],
        "model_type": "llama" if gated else "bessemer",
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.depth,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_width,
        "intermediate_size": cfg.hidden,
        "hidden_act": "silu" if gated else "relu2",
        "max_position_embeddings": cfg.context,
        "rope_theta": cfg.rope_base,
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "eos_token_id": list(end),
        "bos_token_id": None,
        "dtype": "float32",
    }


def _names(cfg: ModelConfig) -> list[tuple[str, str]]:
    """Every weight's name here and there. A tied head is stored once, as the embedding; reading takes either."""
    names = [pair for pair in TOP if not (cfg.tied and pair[0] == "head.weight")]
    if cfg.tied:
        names.append(("head.weight", "model.embed_tokens.weight"))
    for layer in range(cfg.depth):
        names += [(f"blocks.{layer}.{ours}", f"model.layers.{layer}.{theirs}") for ours, theirs in BLOCK if cfg.ffn == "gated" or "gate" not in ours]
    return names
