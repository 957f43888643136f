"""The terminal chat: whole characters, remembered turns, piped and typed input, and checkpoints that are none."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bessemer.decode import chat
from bessemer.decode.chat import ChatConfig
from bessemer.decode.generate import generate, stream
from bessemer.decode.sample import Sampling
from bessemer.model import weights
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.tokenizer import bpe
from bessemer.tokenizer.tokenizer import Tokenizer

LENGTH = 12


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base and sft: the same random weights, told apart by what ends their text."""
    root = tmp_path_factory.mktemp("checkpoints")
    (root / "tokenizer").mkdir()
    bpe.save(bpe.train(["what does the function do? the function returns the value. "] * 5, 280), root / "tokenizer")
    tokenizer = Tokenizer.load(root / "tokenizer")
    model = Model(ModelConfig(vocab=280, width=32, depth=1, heads=2, kv_heads=1, head_width=16, hidden=32, context=128))
    initialise(model, 0)
    for weight in model.parameters():
        weight.data *= 3  # else a tied head repeats the last token for ever
    for name, end in {"base": [tokenizer.end_of_text], "sft": [tokenizer.end_of_turn, tokenizer.end_of_text]}.items():
        (root / name).mkdir()
        weights.save(model, root / name, root / "tokenizer", end)
    return root


@pytest.fixture(scope="module")
def tokenizer(checkpoints: Path) -> Tokenizer:
    return Tokenizer.load(checkpoints / "tokenizer")


def bessemer(*words: object, said: str | bytes) -> subprocess.CompletedProcess[bytes]:
    given = said.encode() if isinstance(said, str) else said
    return subprocess.run([sys.executable, "-m", "bessemer", *map(str, words)], input=given, capture_output=True, timeout=60)


def test_characters_are_printed_whole(tokenizer: Tokenizer) -> None:
    text = "the naïve € 😀 value 日本"  # no merges for these: one token per byte
    ids = tokenizer.encode(text)
    assert len(ids) > len(text) - 8 + 3 + 4
    pieces = list(chat.text_of(ids, tokenizer))
    assert "".join(pieces) == text
    assert not any(chat.BROKEN in piece for piece in pieces)
    assert len(pieces) > 10  # it streams


def test_bytes_that_are_no_character_are_not_held_back_for_ever(tokenizer: Tokenizer) -> None:
    start = tokenizer.encode("😀")[:1]  # the first byte of four, again and again
    seen: list[int] = []

    def ids() -> Iterator[int]:
        for token in [*start * 4, *tokenizer.encode("the")]:
            seen.append(token)
            yield token

    pieces = chat.text_of(ids(), tokenizer)
    assert set(next(pieces)) == {chat.BROKEN} and len(seen) == 4
    assert "".join(pieces).endswith("the")
    assert "".join(chat.text_of(start, tokenizer)) == chat.BROKEN  # at the very end it is shown as it is


def test_the_oldest_turns_are_forgotten_first(tokenizer: Tokenizer) -> None:
    opening = [{"role": "system", "content": "do"}]
    turns = [{"role": role, "content": f"{number}"} for number in range(5) for role in ("user", "assistant")][:-1]
    length = len(tokenizer.chat([*opening, *turns], reply=True)[0])
    assert chat.fit(opening, turns, tokenizer, length) == turns
    shorter = chat.fit(opening, turns, tokenizer, length - 1)
    assert shorter == turns[2:]
    assert len(tokenizer.chat([*opening, *shorter], reply=True)[0]) < length
    least = len(tokenizer.chat([*opening, turns[-1]], reply=True)[0])
    assert chat.fit(opening, turns, tokenizer, least) == turns[-1:]
    with pytest.raises(ValueError, match=f"with the system instruction, has {least} tokens, {least - 1} fit"):
        chat.fit(opening, turns, tokenizer, least - 1)


def test_turns_are_remembered_until_reset(checkpoints: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    model = weights.load(checkpoints / "sft")
    prompts: list[str] = []

    def reply(prompt: list[int]) -> Iterator[int]:
        prompts.append(tokenizer.decode(prompt, skip_special=False))
        return stream(model, prompt, Sampling(3, temperature=1.0, seed=2), {tokenizer.end_of_turn})

    chat.converse(["one", "two", "/reset", "three"], tokenizer, reply, 120, "sys")
    header = "<|im_start|>system\nsys<|im_end|>\n<|im_start|>user\n"
    assert prompts[0] == f"{header}one<|im_end|>\n<|im_start|>assistant\n"
    end = "<|im_end|>\n<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n"
    assert prompts[1].startswith(prompts[0]) and prompts[1].endswith(end)
    answer = prompts[1].removeprefix(prompts[0]).removesuffix(end)
    assert answer and answer in capsys.readouterr().out
    assert prompts[2] == f"{header}three<|im_end|>\n<|im_start|>assistant\n"


def test_settings_are_the_users_then_the_checkpoints() -> None:
    sampled = {"do_sample": True, "temperature": 0.7, "top_k": 40, "eos_token_id": []}
    assert chat.settings(ChatConfig(), sampled) == (0.7, 40, 1.0)
    assert chat.settings(ChatConfig(temperature=0.0, top_k=0, top_p=0.9), sampled) == (0.0, 0, 0.9)
    assert chat.settings(ChatConfig(), {"do_sample": False, "temperature": 0.7, "eos_token_id": []}) == (0.0, 0, 1.0)


def test_a_pipe_gets_the_greedy_answer(checkpoints: Path, tokenizer: Tokenizer) -> None:
    prompt = tokenizer.chat([{"role": "user", "content": "what does it do?"}], reply=True)[0]
    stop = {tokenizer.end_of_turn, tokenizer.end_of_text}
    wanted = tokenizer.decode(generate(weights.load(checkpoints / "sft"), [prompt], Sampling(LENGTH), stop)[0])
    found = bessemer("chat", checkpoints / "sft", "--max-tokens", LENGTH, said="what does it do?\n")
    assert (found.returncode, found.stdout.decode(), found.stderr) == (0, wanted + "\n", b"")


def test_a_base_model_continues_and_says_so(checkpoints: Path) -> None:
    found = bessemer("chat", checkpoints / "base", "--max-tokens", LENGTH, said="the function\n\n/quit\nnever read\n")
    assert found.returncode == 0
    assert found.stdout.decode().startswith("the function") and found.stdout.count(b"\n") == 1
    assert b"is a base model" in found.stderr and found.stderr.count(b"\n") == 1


def test_equal_seeds_give_equal_answers(checkpoints: Path) -> None:
    def said(seed: int) -> bytes:
        return bessemer("chat", checkpoints / "sft", "--temperature", 1, "--top-k", 50, "--seed", seed, "--max-tokens", 20, said="do?\n").stdout

    assert said(1) == said(1) != said(2)


@pytest.mark.parametrize(
    ("path", "words", "said", "message"),
    [
        ("nowhere", [], "", "does not exist"),
        ("tokenizer", [], "", "is not a checkpoint: it holds no config.json"),
        ("sft", ["--temperature", "-1"], "", "chat.temperature: input should be greater than or equal to 0"),
        ("sft", [], "do " * 99, "tokens, 64 fit: shorten it"),
        ("sft", [], b"\xff\xfe\n", "the input is not UTF-8 text"),
    ],
)
def test_bad_input_is_one_line(checkpoints: Path, path: str, words: list[str], said: str | bytes, message: str) -> None:
    found = bessemer("chat", checkpoints / path, *words, said=said)
    assert found.returncode == 1 and found.stdout == b""
    assert message in found.stderr.decode() and found.stderr.count(b"\n") == 1


def test_a_person_at_a_terminal(checkpoints: Path) -> None:
    """Typed at a real terminal: help, an unknown command, a message that is too long (which must not end the chat), quit."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "bessemer", "chat", str(checkpoints / "sft"), "--max-tokens", "4"]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True, env={**os.environ, "TERM": "dumb"})
    os.close(terminal)
    seen = ""

    def wait_for(text: str) -> None:
        nonlocal seen
        until = time.monotonic() + 40
        while text not in seen:
            assert time.monotonic() < until, f"no {text!r} in {seen!r}"
            if select.select([main], [], [], 0.2)[0]:
                seen += os.read(main, 4096).decode()
        seen = seen.partition(text)[2]

    for typed, shown in [(None, chat.HELP), ("/nothing", "/nothing is no command"), ("do " * 150, "124 fit: shorten it"), ("what?", "\n> ")]:
        if typed:
            os.write(main, typed.encode() + b"\n")
        wait_for(shown)
    os.write(main, b"/quit\n")
    assert process.wait(20) == 0
    os.close(main)
