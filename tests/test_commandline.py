"""The command line as a person uses it: help from the dataclasses, three spellings of one call, and one clear line for bad input."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bessemer.core import artifact
from bessemer.corpus import documents
from bessemer.stages import NAMES, find
from bessemer.stages.tokenizer import TokenizerConfig, tokenizer

WORDS = ("river", "stone", "cloud", "paper", "engine", "garden", "window", "silver", "thread", "market")


def bessemer(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bessemer", *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=120)


def refused(*words: object, cwd: Path | None = None) -> str:
    """The one line that a failing command ends with."""
    result = bessemer(*words, cwd=cwd)
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stderr, result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: "), result.stderr
    return line


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A small documents artifact."""
    folder = tmp_path / "documents"
    folder.mkdir()
    rows = []
    for i in range(60):
        url = f"http://pages.test/{i}"
        text = " ".join(WORDS[(i * j + j) % 10] + str((i * 7 + j) % 13) for j in range(60))
        rows.append({"id": documents.identifier(url), "url": url, "title": f"page {i}", "text": text, "source": f"w:{i}"})
    documents.write(documents.shard(folder, 0), sorted(rows, key=lambda row: row["url"]))
    return folder


def test_the_overview_lists_every_command_and_stage():
    text = bessemer().stdout
    for name in [*NAMES, "run", "plan", "show", "chat"]:
        assert f"\n  {name.replace('_', '-')} " in text
    for name in NAMES:
        assert text.split(f"\n  {name.replace('_', '-')} ")[1].splitlines()[0].strip(), f"{name} has no summary"


def fields(config: type) -> list[str]:
    """Names of a config's fields; of a config inside it, those of its own behind its name: mask.rate."""
    found: list[str] = []
    for field in dataclasses.fields(config):
        inner = isinstance(field.type, type) and dataclasses.is_dataclass(field.type)
        found += [f"{field.name}.{name}" for name in fields(field.type)] if inner else [field.name]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_help_comes_from_the_dataclass(name: str):
    result = bessemer(name, "--help")
    assert result.returncode == 0
    shown = result.stdout.replace("-", "_")
    for field in [*find(name).inputs, *fields(find(name).config)]:
        assert f"__{field}" in shown, f"{name} --help does not show {field}"


def test_one_call_has_three_spellings(corpus: Path, tmp_path: Path):
    """Python, command line and recipe give the same files, the latter two the same key."""
    (tmp_path / "python").mkdir()
    numbers = tokenizer((corpus,), out=tmp_path / "python", cfg=TokenizerConfig(vocab=300))
    assert bessemer("tokenizer", "--documents", corpus, "--vocab", 300, "--out", tmp_path / "command").returncode == 0
    (tmp_path / "r.toml").write_text(f'[words]\nstage = "tokenizer"\ndocuments = "{corpus}"\nvocab = 300\n')
    assert bessemer("run", tmp_path / "r.toml", "--store", tmp_path / "store").returncode == 0
    recipe, command = (tmp_path / "store" / "r" / "words").resolve(), tmp_path / "command"
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "python" / file).read_bytes() == (command / file).read_bytes() == (recipe / file).read_bytes()
    manifests = [artifact.read_manifest(folder) or {} for folder in (command, recipe)]
    assert manifests[0]["key"] == manifests[1]["key"] and manifests[0]["numbers"] == numbers


def test_plan_run_show(corpus: Path, tmp_path: Path):
    (tmp_path / "r.toml").write_text(f'[tokenizer]\ndocuments = "{corpus}"\nvocab = 300\n[tokens]\ndocuments = ["{corpus}"]\n')
    plan = bessemer("plan", tmp_path / "r.toml", "--store", tmp_path / "store").stdout
    assert plan.count("will run") == 2 and "FLOPs" in plan and "hours" in plan
    assert bessemer("run", tmp_path / "r.toml", "--store", tmp_path / "store").returncode == 0
    assert bessemer("plan", tmp_path / "r.toml", "--store", tmp_path / "store").stdout.count("cached") == 2
    shown = bessemer("show", tmp_path / "store" / "r" / "tokens").stdout
    assert "tokenizer-" in shown and str(corpus) in shown and "vocab=300" in shown


def test_show_says_where_a_row_without_text_is(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    assert bessemer("read", "--source", tmp_path / "rows.jsonl", "--out", tmp_path / "read").returncode == 0
    shown = bessemer("show", tmp_path / "read").stdout
    assert "no text: rows.jsonl:14 (text is null, not text)" in shown and "text_bytes=1," in shown


def test_typos_name_the_place_and_suggest(tmp_path: Path):
    (tmp_path / "r.toml").write_text("[crawl]\nseeds = []\nmax_pgaes = 3\n")
    assert "r.toml: crawl.max_pgaes: unknown name 'max_pgaes'; did you mean 'max_pages'?" in refused("run", tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text("[crwal]\n")
    assert "r.toml: crwal: unknown name 'crwal'; did you mean 'crawl'?" in refused("plan", tmp_path / "r.toml")
    assert "unknown name 'tokeniser'; did you mean 'tokenizer'?" in refused("tokeniser")
    assert "nowhere.toml does not exist" in refused("run", "nowhere.toml")


def test_missing_inputs_are_named(tmp_path: Path):
    assert "input nowhere does not exist" in refused("tokenizer", "--documents", "nowhere", "--store", tmp_path)
    (tmp_path / "r.toml").write_text('[tokenizer]\ndocuments = "nowhere"\n')
    assert "tokenizer.documents: 'nowhere' is neither an earlier table (none) nor an existing file" in refused("run", tmp_path / "r.toml")
    assert "not an artifact of Bessemer" in refused("show", tmp_path)
    assert "no config.json" in refused("chat", tmp_path)


def test_an_unreachable_seed_is_named(tmp_path: Path):
    line = refused("crawl", "--seeds", "http://127.0.0.1:9/", "--allow-private", "--store", tmp_path)
    assert "http://127.0.0.1:9/" in line


def test_an_empty_corpus_is_refused_by_each_stage_that_reads_it(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for stage, flag in (("extract", "crawl"), ("clean", "documents"), ("dedup", "documents"), ("tokenizer", "documents"), ("dialogues", "documents")):
        assert str(tmp_path / "empty") in refused(stage, f"--{flag}", tmp_path / "empty", "--store", tmp_path)


def test_a_truncated_warc_loses_only_the_last_record(tmp_path: Path):
    """Two good pages and half a third: two documents, one counted reject."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    path = tmp_path / "pages.warc.gz"
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for i in range(3):
            html = f"<html><body><p>{' '.join(f'{word}{(i * 31 + j) % 97}' for j, word in enumerate(WORDS * 20))}</p></body></html>".encode()
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            from io import BytesIO

            writer.write_record(writer.create_warc_record(f"http://a.test/{i}", "response", payload=BytesIO(html), http_headers=headers))
            if i == 1:
                good = file.tell()
    whole = path.read_bytes()
    path.write_bytes(whole[: good + (len(whole) - good) // 2])
    result = bessemer("extract", "--crawl", path, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    numbers = json.loads(result.stdout[: result.stdout.rindex("}") + 1])
    assert numbers["documents"] == 2 and numbers["rejected"] == 1


def test_a_vocabulary_larger_than_the_corpus_is_refused(corpus: Path, tmp_path: Path):
    line = refused("tokenizer", "--documents", corpus, "--vocab", 50_000, "--store", tmp_path / "store")
    assert "vocab 50000 is larger than this corpus allows" in line


def test_a_full_disk_is_one_line_and_the_work_goes_on_afterwards(corpus: Path, tmp_path: Path):
    """The kernel's own answer: the file that is to be written leads to the device that is always full."""
    cfg = TokenizerConfig(vocab=300)
    part = tmp_path / "words.part"
    (part / "run").mkdir(parents=True)
    (part / "run" / "key").write_text(artifact.key_of(find("tokenizer"), {"documents": (corpus,)}, cfg))
    (part / "tokenizer.json.tmp").symlink_to("/dev/full")
    command = ("tokenizer", "--documents", corpus, "--vocab", 300, "--out", tmp_path / "words")
    assert "no space left on the disk" in refused(*command) and part.exists() and not (tmp_path / "words").exists()
    (part / "tokenizer.json.tmp").unlink()
    assert bessemer(*command).returncode == 0 and (tmp_path / "words" / "tokenizer.json").is_file()


def test_a_loss_that_is_no_number_is_one_line(corpus: Path, tmp_path: Path):
    for command in (
        ("tokenizer", "--documents", corpus, "--vocab", 300, "--out", tmp_path / "words"),
        ("tokens", "--documents", corpus, "--tokenizer", tmp_path / "words", "--held-out", 0.3, "--out", tmp_path / "tokens"),
    ):
        assert bessemer(*command).returncode == 0
    size = ("--width", 16, "--depth", 1, "--heads", 1, "--kv-heads", 1, "--head-width", 16, "--hidden", 16, "--context", 32)
    wild = ("--steps", 30, "--batch", 4, "--lr", "1e38", "--warmup", 0, "--clip", "1e30", "--precision", "fp32", "--no-compile")
    line = refused("pretrain", "--tokens", tmp_path / "tokens", "--tokenizer", tmp_path / "words", *size, *wild, "--out", tmp_path / "base")
    assert "loss is" in line and "at step" in line and "Lower lr" in line
    assert (tmp_path / "base.part").exists() and not (tmp_path / "base").exists()


def test_debug_shows_where(tmp_path: Path):
    result = bessemer("run", tmp_path / "nowhere.toml", "--debug")
    assert result.returncode != 0 and "Traceback" in result.stderr


def test_a_closed_pipe_is_no_error(corpus: Path, tmp_path: Path):
    assert bessemer("tokenizer", "--documents", corpus, "--vocab", 300, "--out", tmp_path / "words").returncode == 0
    shell = f"{sys.executable} -m bessemer show {tmp_path / 'words'} | true"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True)
    assert "Traceback" not in result.stderr and "Broken pipe" not in result.stderr


def test_binary_input_is_refused(tmp_path: Path):
    (tmp_path / "noise.warc.gz").write_bytes(gzip.compress(os.urandom(10_000)))
    assert "noise.warc.gz" in refused("extract", "--crawl", tmp_path / "noise.warc.gz", "--out", tmp_path / "out")
    (tmp_path / "noise.toml").write_bytes(os.urandom(100))
    assert "noise.toml" in refused("run", tmp_path / "noise.toml")
