"""Small models of transformers with random weights, saved as checkpoint folders that hold a trained tokenizer."""

import json
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

from bessemer.tokenizer import bpe, split

VOCAB, PADDED = 400, 416  # tokens, and rows of the embedding
TEXT = (
    "json.dumps(obj, *, skipkeys=False)\n    Serialize obj to a JSON formatted str.\nThe quick brown fox doesn't jump over 12 lazy dogs 3456 times.\n"
    "Grüße, 世界! 🎉 naïve café; ไทย العربية\n\n\t# a comment\r\nfor i in range(10): x[i] += 1.5e-3\n"
)
DIGITS = "12345678 1,234.5 ٣٤ Ⅻ ½"
HARD = [
    "",
    " ",
    "plain words",
    "  two  spaces\n\n\tand tabs\r\n  ",
    "Grüße, 世界! 🎉 cafe\u0301 ไทย العربية",
    DIGITS,
    "It's WE'LL don't I'D y'all 'twas",
    "<|im_end|> is text here",
    "\x00\x7f\u2581\ufffd\u3000",
    "a" * 200,
    "foo_bar(baz)[0]=3.14e-10; // ok\n    return",
]
SHAPE: dict[str, Any] = {
    "vocab_size": PADDED,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "rope_theta": 50000.0,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama-untied": lambda: LlamaConfig(**SHAPE, head_dim=32, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "llama-llama3": lambda: LlamaConfig(**SHAPE, rope_scaling=LLAMA3),
    "llama-yarn": lambda: LlamaConfig(**SHAPE, rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    "llama-linear": lambda: LlamaConfig(**SHAPE, rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "qwen2": lambda: Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=128, tie_word_embeddings=False),
    "gpt2": lambda: GPT2Config(vocab_size=PADDED, n_positions=1024, n_embd=64, n_layer=2, n_head=4),
}
SPLITS = dict(zip(CONFIGS, (*get_args(split.Name), *get_args(split.Name)), strict=True))  # each pre-tokenization is met


def save(name: str, folder: Path) -> Any:
    """Write the model called `name`, with noise on every weight, and its tokenizer; the model itself."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for weight in model.parameters():  # norms are 1 and biases 0 at first, and would hide a mistake
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    bpe.save(bpe.train([TEXT * 3], VOCAB, SPLITS[name]), folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))  # <|im_end|>, <|endoftext|>
    return model
