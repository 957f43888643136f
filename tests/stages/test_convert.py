"""Models of others through the stage `convert`: every family with its own kind of tokenizer, and RWKV-7's files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import AutoTokenizer

from bessemer.__main__ import dispatch
from bessemer.core import artifact
from bessemer.core import recipe as recipes
from bessemer.model import weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.stages import find
from bessemer.stages.convert import ConvertConfig, convert
from bessemer.stages.pretrain import pretrain
from bessemer.tokenizer.tokenizer import Tokenizer
from tests.model.foreign import HARD, TEXT
from tests.stages.test_pretrain import TEXTS, config, trained, written

ROWS = 416  # of the embedding: more than any of the tokenizers has entries
WIDE = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
LLAMA = WIDE | {"num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}


def byte_pairs(folder: Path) -> None:
    """vocab.json and merges.txt alone, as GPT-2 was published."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT] * 3, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    trained.save_model(str(folder))


def tokenizer_json(folder: Path) -> None:
    """As GPT-NeoX and RWKV-4 were published."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT] * 3, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    trained.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}))


def word_pieces(folder: Path) -> None:
    """vocab.txt alone, as BERT was published."""
    trained = BertWordPieceTokenizer()
    trained.train_from_iterator([TEXT] * 3, vocab_size=400, show_progress=False)
    trained.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))


def pieces(kind: str, folder: Path, file: str, size: int = 400, **more: Any) -> None:
    """A SentencePiece model alone."""
    (folder / "text.txt").write_text(TEXT * 3)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "made"),
        model_type=kind,
        vocab_size=size,
        minloglevel=2,
        hard_vocab_limit=False,
        **more,
    )
    (folder / "made.model").rename(folder / file)
    for name in ("made.vocab", "text.txt"):
        (folder / name).unlink()


def t5(folder: Path) -> None:
    pieces("unigram", folder, "spiece.model", size=200, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "eos_token": "</s>", "pad_token": "<pad>"})
    )


def llama(folder: Path) -> None:
    pieces("bpe", folder, "tokenizer.model", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": True, "eos_token": "</s>", "bos_token": "<s>"})
    )


T5 = {"vocab_size": ROWS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
FAMILIES = {
    "gpt2": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(vocab_size=ROWS, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0),
        byte_pairs,
    ),
    "bert": (transformers.BertForMaskedLM, transformers.BertConfig(**WIDE), word_pieces),
    "t5": (transformers.T5ForConditionalGeneration, transformers.T5Config(**T5, decoder_start_token_id=0), t5),
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA), llama),
    "mixtral": (transformers.MixtralForCausalLM, transformers.MixtralConfig(**LLAMA, num_local_experts=4), llama),
    "rwkv": (
        transformers.RwkvForCausalLM,
        transformers.RwkvConfig(vocab_size=ROWS, hidden_size=32, num_hidden_layers=2, context_length=128, eos_token_id=None, bos_token_id=None),
        tokenizer_json,
    ),
}


def logits(model: Any, family: str) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 300, 9]])
    with torch.no_grad():
        if isinstance(model, Model):
            given = {"memory": model.encode(ids.flip(1))} if family == "t5" else {}
            return model.logits(model(ids, **given))
        return model(input_ids=ids.flip(1), decoder_input_ids=ids).logits if family == "t5" else model(ids).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_with_its_own_kind_of_tokenizer(family: str, tmp_path: Path):
    """Their folder opens here, and what becomes of it opens there: equal logits, equal ids, equal starts and ends."""
    make, config, tokenizer = FAMILIES[family]
    torch.manual_seed(0)
    theirs, folder = make(config).eval(), tmp_path / "theirs"
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    theirs.save_pretrained(folder)
    tokenizer(folder)

    out = artifact.make(find("convert"), {"model": folder}, ConvertConfig(), tmp_path / "ours")
    ours = weights.load(out)
    torch.testing.assert_close(logits(ours, family), logits(theirs, family), atol=1e-4, rtol=1e-4)
    back, report = make.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(logits(back.eval(), family), logits(theirs, family), atol=1e-4, rtol=1e-4)

    words, expected, again = Tokenizer.load(out), AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(out)
    assert words.vocab <= ROWS
    for text in (*HARD, TEXT):
        ids = expected.encode(text, add_special_tokens=False)
        if (folder / "tokenizer.model").is_file():  # transformers treats spaces before the first word otherwise than the library itself
            ids = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(text)
        assert words.encode(text) == ids
        assert again.encode(text, add_special_tokens=False) == ids
    framed = [[token for token in tokenizer.encode("a b") if token in tokenizer.all_special_ids] for tokenizer in (again, expected)]
    assert framed[0] == framed[1]  # what the family puts before and behind
    if family == "t5":
        assert weights.generation_defaults(out)["decoder_start_token_id"] == 0
    if family != "bert":
        assert weights.generation_defaults(out)["eos_token_id"] == [words.end_of_text]


def save(folder: Path, **changes: Any) -> Path:
    """A small Llama of transformers with a tokenizer.json."""
    folder.mkdir()
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**(LLAMA | changes))).save_pretrained(folder)
    tokenizer_json(folder)
    return folder


RWKV7 = {"mixer": "rwkv", "ffn": "channel", "norm": "layer", "position": "none", "embed_norm": True, "act": "relu2", "tied": False}


def test_rwkv7_goes_out_and_comes_back_on_the_command_line(tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    model = Model(ModelConfig(vocab=320, width=32, depth=2, heads=4, kv_heads=4, hidden=64, context=64, **RWKV7))
    initialise(model, 0)
    with torch.no_grad():
        for weight in model.parameters():  # new blocks say nothing
            weight.add_(torch.randn_like(weight) * 0.1)
    made, out, back = tmp_path / "made", tmp_path / "out", tmp_path / "back"
    made.mkdir()
    weights.save(model.eval(), made, tokenizer_folder, [2, 0])
    dispatch(["export", "--checkpoint", str(made), "--format", "rwkv7", "--out", str(out)])
    dispatch(["convert", "--model", str(out), "--out", str(back)])
    assert f'"parameters": {sum(weight.numel() for weight in model.parameters())}' in capsys.readouterr().out
    assert torch.equal(logits(weights.load(back), "rwkv7"), logits(model, "rwkv7"))
    assert weights.load_config(back).context == 64
    assert Tokenizer.load(back).encode(TEXT) == Tokenizer.load(made).encode(TEXT)

    (out / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer lies beside it"):
        dispatch(["convert", "--model", str(out / "model-ctx64.pth"), "--out", str(tmp_path / "none")])
    torch.save({"emb.weight": torch.ones(3, 3)}, out / "model-ctx64.pth")
    with pytest.raises(ValueError, match="no file of RWKV-7: it has no blocks.0.att.r_k"):
        dispatch(["convert", "--model", str(out), "--out", str(tmp_path / "none")])
    with pytest.raises(ValueError, match="only RWKV-7 as its authors build it"):
        dispatch(["export", "--checkpoint", str(save(tmp_path / "llama")), "--format", "rwkv7", "--out", str(tmp_path / "none")])


def test_a_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = save(tmp_path / "theirs")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(folder) if name == "org/name" else "")
    dispatch(["convert", "--model", "hf://org/name", "--out", str(tmp_path / "ours")])
    assert (tmp_path / "ours" / "manifest.json").is_file()


def test_a_t5_whose_start_stands_in_config_json_alone(tmp_path: Path):
    folder = tmp_path / "theirs"
    transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, decoder_start_token_id=0)).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(given | {"decoder_start_token_id": 0}))
    t5(folder)
    out = artifact.make(find("convert"), {"model": folder}, ConvertConfig(), tmp_path / "ours")
    assert weights.generation_defaults(out)["decoder_start_token_id"] == 0


def test_what_cannot_be_converted_is_said_in_one_line(tmp_path: Path):
    folder = save(tmp_path / "theirs", vocab_size=300)
    with pytest.raises(ValueError, match=r"its tokenizer has \d+ entries, its model only 300: they do not belong together"):
        dispatch(["convert", "--model", str(folder), "--out", str(tmp_path / "ours")])
    with pytest.raises(ValueError, match="is one file of a checkpoint: name its folder"):
        dispatch(["convert", "--model", str(folder / "model.safetensors"), "--out", str(tmp_path / "ours")])


def test_plan_knows_the_size_and_refuses_what_we_do_not_build(tmp_path: Path):
    folder, recipe = save(tmp_path / "theirs"), tmp_path / "recipe.toml"
    recipe.write_text(f'[convert]\nmodel = "{folder}"\n')
    [step] = recipes.load(recipe, find)
    assert step.estimate["bytes"] == 4 * sum(weight.numel() for weight in weights.load(folder).parameters())
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(given | {"model_type": "mamba"}))
    with pytest.raises(ValueError, match="recipe.toml: convert: .*model_type 'mamba' is not supported"):
        recipes.load(recipe, find)


def test_a_training_that_is_not_finished_opens_at_its_newest_whole_checkpoint(tmp_path: Path):
    """The weights that the run has there, tied and with an average; a damaged checkpoint is passed over."""
    inputs = {"tokens": written(tmp_path / "tokens", trained(tmp_path / "words", TEXTS)), "tokenizer": tmp_path / "words"}
    cfg = config(steps=6, save_every=2, ema=0.5, optimizer="adamw", samples=())
    whole = artifact.make(find("pretrain"), inputs, cfg, tmp_path / "whole")
    part = tmp_path / "begun.part"
    (part / "run").mkdir(parents=True)
    shutil.copy(whole / artifact.BEGAN, part / artifact.BEGAN)
    pretrain(**inputs, out=part, cfg=cfg)
    (part / "config.json").unlink()
    for step in (6, 4):
        (tmp_path / str(step)).mkdir()
        found = convert(part, out=tmp_path / str(step), cfg=ConvertConfig())
        assert found["step"] == step
        victim = next((part / "run" / "resume" / f"step-{step:08d}").glob("*.distcp"))
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "6", whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(FileNotFoundError, match="none that is whole"):
        convert(part, out=tmp_path / "none", cfg=ConvertConfig())
