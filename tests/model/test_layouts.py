"""Checkpoints of other libraries: the same logits both ways, weights under their names."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from bessemer.model import layouts, weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.tokenizer.tokenizer import Tokenizer
from tests.model.foreign import HARD
from tests.model.test_rwkv import official

IDS = torch.randint(0, 320, (3, 40), generator=torch.Generator().manual_seed(1))
SMALL = {"vocab": 320, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 48, "context": 64}
ALIKE = SMALL | {"kv_heads": 4}
GPT2 = ALIKE | {"position": "learned", "norm": "layer", "bias": "all", "ffn": "dense", "act": "gelu_tanh"}
BERT = GPT2 | {"shape": "encoder", "norm_at": "post", "embed_norm": True, "types": 2, "act": "gelu", "norm_eps": 1e-12}
T5 = ALIKE | {"shape": "encdec", "position": "bias", "ffn": "dense", "act": "relu", "norm_eps": 1e-6}
MOE = SMALL | {"ffn": "moe", "experts": 4, "top_k": 2}
SIGMOID = MOE | {"router": "sigmoid", "balance": "bias", "shared_experts": 2, "routed_scale": 2.5}
RECURRENT = SMALL | {"norm": "layer", "position": "none", "embed_norm": True, "act": "relu2", "tied": False}
RWKV4 = RECURRENT | {"mixer": "rwkv4", "ffn": "channel4"}
RWKV7 = RECURRENT | {"mixer": "rwkv", "ffn": "channel", "heads": 4, "kv_heads": 4}
LONG = {"rope_factor": 4.0, "rope_context": 16}

# what we train -> the class that transformers opens it with
OURS = [
    (SMALL, "LlamaForCausalLM"),
    (SMALL | {"tied": False, "head_width": 16}, "LlamaForCausalLM"),
    (SMALL | {"bias": "all"}, "LlamaForCausalLM"),
    (SMALL | {"act": "gelu_tanh"}, "LlamaForCausalLM"),
    (SMALL | {"rope_scaling": "linear", **LONG}, "LlamaForCausalLM"),
    (SMALL | {"rope_scaling": "ntk", **LONG}, "LlamaForCausalLM"),
    (SMALL | {"rope_scaling": "yarn", **LONG}, "LlamaForCausalLM"),
    (SMALL | {"rope_scaling": "llama3", **LONG}, "LlamaForCausalLM"),
    (SMALL | {"head": "scalar"}, "LlamaForSequenceClassification"),
    (SMALL | {"head": "sequence", "labels": 3}, "LlamaForSequenceClassification"),
    (SMALL | {"window": 8}, "MistralForCausalLM"),
    (SMALL | {"bias": "qkv"}, "Qwen2ForCausalLM"),
    (SMALL | {"bias": "qkv", "window": 8}, "Qwen2ForCausalLM"),
    (SMALL | {"qk_norm": True}, "Qwen3ForCausalLM"),
    (SMALL | {"qk_norm": True, "window": 8, "head_width": 16}, "Qwen3ForCausalLM"),
    (MOE, "MixtralForCausalLM"),
    (MOE | {"window": 8, "balance": "none", "act": "gelu"}, "MixtralForCausalLM"),
    (MOE | {"head": "sequence", "labels": 3}, "MixtralForSequenceClassification"),
    (MOE | {"qk_norm": True, "norm_topk": False, "head_width": 16, "tied": False}, "Qwen3MoeForCausalLM"),
    (MOE | {"qk_norm": True, "window": 8}, "Qwen3MoeForCausalLM"),
    (MOE | {"shared_experts": 2, "shared_gate": True, "bias": "qkv", "norm_topk": False}, "Qwen2MoeForCausalLM"),
    (MOE | {"shared_experts": 1, "shared_gate": True, "window": 8}, "Qwen2MoeForCausalLM"),
    (SIGMOID, "Glm4MoeForCausalLM"),
    (SIGMOID | {"qk_norm": True, "bias": "qkv", "norm_topk": False, "rope_scaling": "yarn", **LONG}, "Glm4MoeForCausalLM"),
    (SIGMOID | {"qk_norm": True}, "Dots1ForCausalLM"),
    (SIGMOID | {"qk_norm": True, "window": 8}, "Dots1ForCausalLM"),
    (GPT2, "GPT2LMHeadModel"),
    (GPT2 | {"head": "sequence", "labels": 3}, "GPT2ForSequenceClassification"),
    (BERT, "BertForMaskedLM"),
    (BERT | {"head": "lm+pair"}, "BertForPreTraining"),
    (BERT | {"head": "sequence", "labels": 3}, "BertForSequenceClassification"),
    (BERT | {"head": "tokens", "labels": 5}, "BertForTokenClassification"),
    (BERT | {"head": "span"}, "BertForQuestionAnswering"),
    (RWKV4, "RwkvForCausalLM"),
    (RWKV4 | {"tied": True}, "RwkvForCausalLM"),
    (T5, "T5ForConditionalGeneration"),
    (T5 | {"ffn": "gated", "act": "gelu_tanh", "tied": False, "encoder_depth": 3, "head_width": 6}, "T5ForConditionalGeneration"),
]


def build(fields: dict) -> Model:
    model = Model(ModelConfig(**fields)).eval()
    initialise(model, 1)
    with torch.no_grad():  # scores that differ, and gains, biases and what starts at zero not all alike
        for name, weight in model.named_parameters():
            draw = torch.Generator().manual_seed(len(name))
            weight.mul_(4) if weight.dim() > 1 and weight.any() else weight.add_(0.2 * torch.randn(weight.shape, generator=draw))
    return model


@torch.no_grad()
def ours(model: Model) -> list[Tensor]:
    """Everything that the model says of IDS."""
    given = {"memory": model.encode(IDS.flip(1))} if model.encoder else {}
    hidden = model(IDS, **given)
    found = [model.logits(hidden)] if model.cfg.has_lm else []
    if model.cfg.head in ("lm+pair", "sequence", "scalar"):
        place = 0 if model.cfg.shape == "encoder" else -1
        return [*found, model.classify(hidden)[:, place]]
    if model.cfg.head == "span":
        return list(model.classify(hidden).unbind(-1))
    return found or [model.classify(hidden)]


@torch.no_grad()
def theirs(model: torch.nn.Module) -> list[Tensor]:
    model.eval()
    if isinstance(model, transformers.T5ForConditionalGeneration):
        return [model(input_ids=IDS.flip(1), decoder_input_ids=IDS).logits]
    model.config.pad_token_id = -1  # else a classifier looks for the last token that is no padding
    found = model(IDS)
    named = ("prediction_logits", "seq_relationship_logits", "start_logits", "end_logits", "logits")
    return [found[name] for name in named if name in found]


def same(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.std() > 0.01
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("fields", "name"), OURS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_we_train_opens_in_transformers_and_what_that_saves_opens_here(fields, name, tokenizer_folder: Path, tmp_path: Path):
    model = build(fields)
    (tmp_path / "a").mkdir()
    weights.save(model, tmp_path / "a", tokenizer_folder, [2, 0])
    there, report = getattr(transformers, name).from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    same(ours(model), theirs(there))

    again = weights.load(tmp_path / "a")
    same(ours(model), ours(again))
    there.save_pretrained(tmp_path / "b")
    back = weights.load(tmp_path / "b")
    same(ours(model), ours(back))
    assert again.cfg == dataclasses.replace(back.cfg, rope_context=again.cfg.rope_context)


@pytest.mark.parametrize("fields", [RWKV7, RWKV7 | {"ranks": (8, 12, 4, 16), "depth": 1}])
def test_a_file_of_rwkv7_comes_back_exactly(fields: dict, tmp_path: Path):
    """Under the authors' names and shapes, which tests/model/test_rwkv.py shows to their own package."""
    model, file = build(fields), tmp_path / "RWKV-x070-ctx512.pth"
    weights.save_rwkv7(model, file)
    back = weights.load_rwkv7(file)
    assert torch.equal(ours(model)[0], ours(back)[0])
    assert back.cfg.context == 512 and back.cfg.hidden == model.cfg.hidden

    found, expected = torch.load(file), official(model)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    torch.save(found | {f"blocks.0.att.v{i}": torch.ones(32, 4) for i in range(3)}, file)  # which their training makes, and nothing reads
    assert torch.equal(ours(model)[0], ours(weights.load_rwkv7(file))[0])


def checkpoint(folder: Path, tokenizer: Path, fields: dict = SMALL) -> Model:
    model = build(fields)
    folder.mkdir(exist_ok=True)
    weights.save(model, folder, tokenizer, [2, 0])
    return model


def change(folder: Path, **fields) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("kind", ["shards", "pickle", "old pickle", "pickled shards", "bf16", "head written too", "constants"])
def test_weights_as_others_lay_them_on_disk(kind: str, tokenizer_folder: Path, tmp_path: Path):
    model, whole = checkpoint(tmp_path, tokenizer_folder), tmp_path / "model.safetensors"
    state = load_file(whole)
    if kind == "bf16":
        state = {name: weight.bfloat16() for name, weight in state.items()}
        model.load_state_dict({name: weight.bfloat16().float() for name, weight in model.state_dict().items()})
    elif kind == "head written too":
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    elif kind == "constants":
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    whole.unlink()
    if "shards" in kind:
        safe = kind == "shards"
        stem, ending = ("model", "safetensors") if safe else ("pytorch_model", "bin")
        names = {name: f"{stem}-{1 + i % 2:05}-of-00002.{ending}" for i, name in enumerate(state)}
        for file in set(names.values()):
            (save_file if safe else torch.save)({name: state[name] for name in state if names[name] == file}, tmp_path / file)
        (tmp_path / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": names}))
        save_file({"stranger": torch.ones(1)}, tmp_path / "consolidated.safetensors")  # the authors' own format beside it
    elif "pickle" in kind:
        torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=kind == "pickle")
    else:
        save_file(state, whole)
    assert torch.equal(ours(model)[0], ours(weights.load(tmp_path))[0])


def test_weights_on_disk_that_are_wrong(tokenizer_folder: Path, tmp_path: Path):
    checkpoint(tmp_path, tokenizer_folder)
    whole, pickled = tmp_path / "model.safetensors", tmp_path / "pytorch_model.bin"
    state = load_file(whole)
    save_file({name: weight for name, weight in state.items() if "norm" not in name}, whole)
    with pytest.raises(ValueError, match=r"do not fit the configuration: missing \['stack.blocks.0.ffn_norm.weight'"):
        weights.load(tmp_path)
    save_file(state | {"model.embed_tokens.weight": torch.ones(300, 32)}, whole)
    with pytest.raises(ValueError, match=r"embed.weight is \(300, 32\), the configuration asks for \(320, 32\)"):
        weights.load(tmp_path)
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or cut off"):
        weights.load(tmp_path)
    whole.unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        weights.load(tmp_path)
    torch.save({"weight": Path("code")}, pickled)
    with pytest.raises(ValueError, match="holds more than weights"):
        weights.load(tmp_path)
    pickled.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="damaged, cut off"):
        weights.load(tmp_path)
    pickled.unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(FileNotFoundError, match="lacks model-1.safetensors, which model.safetensors.index.json names"):
        weights.load(tmp_path)


REFUSED = [
    (SMALL, {"model_type": "gemma2"}, "model_type 'gemma2' is not supported (bert,"),
    (SMALL, {"attention_bias": True}, "attention_bias without mlp_bias"),
    (SMALL, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic' is not supported"),
    (SMALL, {"rope_parameters": None, "rope_scaling": {"type": "su", "factor": 2.0}}, "rope_type 'su' is not supported"),
    (SMALL, {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 8}}, "beta_fast = 8"),
    (SMALL, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
    (SMALL, {"partial_rotary_factor": 0.25}, "partial_rotary_factor = 0.25"),
    (SMALL, {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
    (SMALL, {"hidden_act": "xielu"}, "hidden_act 'xielu' is not supported (silu,"),
    (SMALL, {"architectures": ["LlamaForTokenClassification"]}, "architecture LlamaForTokenClassification is not supported"),
    (SMALL, {"quantization_config": {"quant_method": "awq"}}, "quantization_config (awq) is not supported"),
    (SMALL, {"num_hidden_layers": "two"}, "config.json.depth"),
    (SMALL, {"hidden_size": 0}, "config.json"),
    (SMALL, {"num_key_value_heads": 3}, "heads (4) must be a multiple of kv_heads (3)"),
    (SMALL | {"qk_norm": True}, {"attention_bias": True}, "attention_bias of qwen3"),
    (SMALL | {"bias": "qkv", "window": 8}, {"layer_types": ["full_attention", "sliding_attention"]}, "sliding_window (8) in some layers only"),
    (MOE | {"qk_norm": True}, {"mlp_only_layers": [0]}, "mlp_only_layers = [0] of qwen3_moe"),
    (MOE | {"qk_norm": True}, {"decoder_sparse_step": 2}, "decoder_sparse_step = 2"),
    (
        MOE | {"shared_experts": 1, "shared_gate": True},
        {"shared_expert_intermediate_size": 50},
        "shared_expert_intermediate_size (50) must be a multiple",
    ),
    (SIGMOID, {"n_group": 2}, "n_group = 2 of glm4_moe"),
    (SIGMOID, {"first_k_dense_replace": 1}, "first_k_dense_replace = 1 of glm4_moe"),
    (SIGMOID, {"rope_parameters": {"rope_theta": 1e4}}, "partial_rotary_factor 0.5 of glm4_moe"),
    (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True of gpt2"),
    (GPT2, {"activation_function": "tanh"}, "activation_function 'tanh'"),
    (BERT, {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
    (BERT, {"is_decoder": True}, "is_decoder of bert"),
    (T5, {"feed_forward_proj": "tanh"}, "feed_forward_proj 'tanh'"),
    (T5, {"architectures": ["T5EncoderModel"]}, "architecture T5EncoderModel"),
    (RWKV4, {"attention_hidden_size": 64}, "attention_hidden_size 64 of rwkv"),
    (RWKV4, {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon 0.001 of rwkv"),
]


@pytest.mark.parametrize(("fields", "changes", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_we_do_not_build_is_refused_by_the_name_of_its_field(fields: dict, changes: dict, message: str, tmp_path: Path):
    _, given = layouts.of(ModelConfig(**fields))
    (tmp_path / "config.json").write_text(json.dumps(given | changes))
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        weights.load_config(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_config_files_that_are_damaged(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is not a checkpoint: it holds no config.json"):
        weights.load_config(tmp_path)
    for text, message in (("{", "is no JSON"), ("[]", "holds no fields"), ('{"model_type": "llama"}', "does not say 'num_attention_heads'")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            weights.load_config(tmp_path)


def test_what_older_files_leave_out(tmp_path: Path):
    """The first Llama's config.json, which names neither heads of keys, nor rope, nor tying; and Mistral's with a window as wide as its context."""
    first = {"model_type": "llama", "architectures": ["LLaMAForCausalLM"], "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
    first |= {"num_attention_heads": 32, "num_hidden_layers": 32, "rms_norm_eps": 1e-6, "hidden_act": "silu", "max_position_embeddings": 2048}
    (tmp_path / "config.json").write_text(json.dumps(first))
    cfg = weights.load_config(tmp_path)
    assert (cfg.kv_heads, cfg.head_width, cfg.rope_base, cfg.tied, cfg.bias) == (32, 128, 10000.0, False, "none")
    (tmp_path / "config.json").write_text(json.dumps(first | {"model_type": "mistral", "sliding_window": 2048}))
    assert weights.load_config(tmp_path).window == 0


MESSAGES = [{"role": "user", "content": "Hi, naïve?"}, {"role": "assistant", "content": "No."}]


KINDS = {layouts.of(ModelConfig(**fields))[1]["model_type"]: fields for fields in [fields for fields, _ in OURS] + [RWKV7]}


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_opens_in_transformers_beside_any_family(kind: str, tokenizer_folder: Path, words: Tokenizer, tmp_path: Path):
    """Their AutoTokenizer takes Qwen2's own cuts for every checkpoint of that type, whatever tokenizer.json says: there the class must be named."""
    _, given = layouts.of(ModelConfig(**KINDS[kind]))
    (tmp_path / "config.json").write_text(json.dumps(given))
    for file in tokenizer_folder.iterdir():
        shutil.copy(file, tmp_path)
    opener = transformers.PreTrainedTokenizerFast if kind == "qwen2" else transformers.AutoTokenizer
    theirs = opener.from_pretrained(tmp_path)
    for text in HARD:
        assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == words.encode(text)
    ids = theirs.apply_chat_template(MESSAGES, return_dict=False)
    assert ids == words.chat(MESSAGES)[0]


def test_models_that_no_family_holds_stay_ours(tokenizer_folder: Path, tmp_path: Path):
    alone = [
        SMALL | {"norm": "layer"},
        SMALL | {"prefix": True},
        MOE | {"shared_experts": 1},
        MOE | {"routed_scale": 2.0},
        MOE | {"router": "sigmoid"},
        RWKV7,
        RWKV4 | {"norm_eps": 1e-3},
        BERT | {"head": "scalar"},
        T5 | {"bias": "all"},
    ]
    for number, fields in enumerate(alone):
        model = checkpoint(tmp_path / str(number), tokenizer_folder, fields)
        assert json.loads((tmp_path / str(number) / "config.json").read_text())["model_type"] == "bessemer"
        back = weights.load(tmp_path / str(number))
        assert back.cfg == model.cfg and all(torch.equal(a, b) for a, b in zip(ours(model), ours(back), strict=True))
