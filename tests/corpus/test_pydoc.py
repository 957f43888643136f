"""Pages of documentation: what stands on them, that they are the same each time, and what a bad module can do."""

import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import pytest

from bessemer.core import config
from bessemer.corpus.python_docs import pydoc_site
from bessemer.stages.pydoc import PydocConfig, pydoc


class Text(HTMLParser):
    """The text of the main element, and all links."""

    def __init__(self, html: str):
        super().__init__()
        self.inside, self.text, self.links = False, "", []  # type: ignore[var-annotated]
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.inside = self.inside or tag == "main"
        self.text += "\n" if tag in ("dl", "dd") else ""
        self.links += [value for name, value in attributes if name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data if self.inside else ""


def make(out: Path, **fields: object) -> dict[str, float]:
    (out / "run").mkdir(parents=True, exist_ok=True)
    return pydoc(out=out, cfg=config.parse(PydocConfig, fields, "pydoc"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pydoc")
    numbers = make(out, packages=["json", "builtins", "os", "threading", "pydoc_data"])
    assert numbers["packages"] == 5 and numbers["failed"] == 0 and numbers["pages"] > 60
    return out / "site"


def text(site: Path, name: str) -> str:
    return Text((site / f"{name}.html").read_text()).text


def test_an_entry_is_one_signature_line_and_its_docstring_under_it(site: Path) -> None:
    dumps = text(site, "json").partition("function json.dumps")[2].split("\n")
    assert dumps[0].startswith("(obj, *, skipkeys=False, ensure_ascii=True,") and dumps[0].endswith("**kw)")
    assert dumps[1] == "    Serialize ``obj`` to a JSON formatted ``str``."
    assert "class json.JSONDecoder(*, object_hook=None" in text(site, "json")
    assert "package json\n" in text(site, "json") and "module json.decoder\n" in text(site, "json.decoder")
    assert "exception json.decoder.JSONDecodeError(msg, doc, pos)" in text(site, "json.decoder")


def test_builtin_functions_have_bare_names_and_one_signature(site: Path) -> None:
    lines = text(site, "builtins").split("\n")
    assert "function len(obj, /)" in lines and lines[lines.index("function len(obj, /)") + 1] == "    Return the number of items in a container."
    assert "function getattr(object, name[, default])" in lines  # taken from the docstring's first line
    assert "method dict.pop(k[,d])" in lines and lines[lines.index("method dict.pop(k[,d])") + 1].startswith("    Remove specified key")


def test_inherited_members_and_slot_wrappers_are_left_out(site: Path) -> None:
    page = text(site, "threading")
    assert "method threading.BoundedSemaphore.release" in page and "BoundedSemaphore.acquire" not in page
    everything = "".join(file.read_text() for file in site.glob("*.html"))
    assert "Return self==value." not in everything and "See help(type(self))" not in everything and "__weakref__" not in text(site, "json")


def test_no_path_name_or_address_of_the_machine_is_on_a_page(site: Path) -> None:
    everything = "".join(file.read_text() for file in site.glob("*.html"))
    for secret in (sys.prefix, sys.base_prefix, str(site), str(Path.home()) + "/"):
        assert secret in ("/usr", "//") or secret not in everything, secret
    assert " at 0x" not in everything
    assert "data os.environ: os._Environ" in text(site, "os") and "HOME" not in text(site, "os").partition("data os.environ")[2][:200]


def test_every_page_is_reached_from_the_index_by_relative_links(site: Path) -> None:
    links = Text((site / "index.html").read_text()).links
    assert set(links) - {"./"} == {file.name for file in site.glob("*.html")} - {"index.html"}
    assert "json.decoder.html" in Text((site / "json.html").read_text()).links
    assert (site / "robots.txt").read_text().startswith("User-agent: *")


def test_the_language_reference_is_there(site: Path) -> None:
    assert text(site, "topic.if").startswith("\nThe if statement") and "conditional execution" in text(site, "topic.if")


def files(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (out / "site").iterdir()}


def test_pages_are_the_same_with_other_workers_and_after_a_kill(tmp_path: Path) -> None:
    packages = ["json", "logging", "email", "xml", "http", "unittest"]
    make(tmp_path / "a", packages=packages, workers=1)
    out = tmp_path / "b"
    (out / "run").mkdir(parents=True)
    script = "import sys\nfrom pathlib import Path\nfrom bessemer.stages.pydoc import *\n"
    script += "pydoc(out=Path(sys.argv[1]), cfg=PydocConfig(packages=tuple(sys.argv[2:])))"
    process = subprocess.Popen([sys.executable, "-c", script, str(out), *packages], env=os.environ | {"PYTHONHASHSEED": "7"})
    while not list(out.glob("run/packages/*.json")):
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {file: file.stat().st_mtime_ns for file in out.glob("run/packages/*.json")}
    (out / "site" / "gone.html").write_text("left behind by a killed run")
    make(out, packages=packages, workers=2)
    assert files(tmp_path / "a") == files(out)
    assert 0 < len(finished) < len(packages)
    assert all(file.stat().st_mtime_ns == moment for file, moment in finished.items())  # what was done was not done again


BAD = {
    "crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "deaf": "while True:\n    try:\n        import time; time.sleep(60)\n    except BaseException: pass",
    "hang": "import time; time.sleep(60)",
    "leave": "import os; os._exit(5)",
    "noise": "print('x' * 100000); import sys; sys.stderr.write('y'); input",
    "quit": "raise SystemExit(3)",
    "zfine": "def f(x, y=object()):\n    '''Return x.'''\nSECRET = open\nPATH = '/home/someone/secret/file'",
}


def test_a_bad_module_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "code" / "badly"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("'''A package.'''")
    for name, source in BAD.items():
        (package / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.syspath_prepend(tmp_path / "code")
    numbers = make(tmp_path / "out", packages=["badly"], timeout=1.0)
    failed = json.loads((tmp_path / "out" / "run" / "failed.json").read_text())
    assert failed == {
        "badly.crash": "ended by signal 11", "badly.deaf": "no answer for 3 s", "badly.hang": "TimeoutError: no answer within 1 s",
        "badly.leave": "ended the process with status 5", "badly.quit": "SystemExit: 3",
    }  # fmt: skip
    assert numbers["failed"] == 5 and set(files(tmp_path / "out")) == {
        "index.html",
        "robots.txt",
        "badly.html",
        "badly.noise.html",
        "badly.zfine.html",
    }
    page = (tmp_path / "out" / "site" / "badly.zfine.html").read_text()
    assert "function badly.zfine.f(x, y=...)" in page and "someone" not in page and "data badly.zfine.PATH: str" in page


def test_a_renderer_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "sleepy.py").write_text("import time; time.sleep(60)")
    command = [sys.executable, "-P", pydoc_site.__file__, str(tmp_path), "60", "sleepy"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={"PYTHONPATH": str(tmp_path)})
    assert process.stdin
    time.sleep(0.5)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=10) == 1


def test_bad_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="packages: 'jsno' is not a top-level package"):
        make(tmp_path, packages=["jsno"])
    with pytest.raises(ValueError, match=r"not 3\.0\.0"):
        make(tmp_path, python="3.0.0")
    with pytest.raises(ValueError, match="no page came out of json"):
        make(tmp_path, packages=["json"], skip=["json"])


def test_wrapped_prose_becomes_one_line_and_code_stays() -> None:
    prose = "This is a long first line of a paragraph that wraps\nonto a second line here."
    code = ">>> a_rather_long_call_of_some_function(with_arguments)\n1"
    options = "first: this is a long description of an option, here\nsecond: and this is the other one"
    assert pydoc_site.reflowed(f"{prose}\n\n{code}\n\n{options}") == f"{prose.replace(chr(10), ' ')}\n\n{code}\n\n{options}"


@pytest.mark.parametrize(
    ("name", "doc", "expected"),
    [
        ("dict.pop", "D.pop(k[,d]) -> v, remove specified key.\nMore.", ("(k[,d])", "Remove specified key.\nMore.")),
        ("dir", "dir([object]) -> list of strings\n\nIf called.", ("([object])", "If called.")),
        ("range", "range(stop) -> range object\nrange(start, stop) -> range object\n\nReturn it.", ("(stop)", "Return it.")),
        ("copy", "D.copy() -> a shallow copy of D", ("()", "A shallow copy of D")),
        ("plain", "Do it (now).", ("", "Do it (now).")),
    ],
)
def test_signatures_written_in_docstrings(name: str, doc: str, expected: tuple[str, str]) -> None:
    assert pydoc_site.split_signature(name, doc) == expected


def test_the_name_that_python_was_started_by_does_not_show(tmp_path: Path) -> None:
    """platform.architecture has the interpreter's path as a default: `python` and `python3` must give one page."""
    pages = []
    for name in ("python", "python-by-another-name"):
        (tmp_path / name).symlink_to(sys.executable)
        site = tmp_path / f"site-{name}"
        site.mkdir()
        command = [str(tmp_path / name), "-P", "-s", pydoc_site.__file__, str(site), "30", "platform"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:  # it lives as long as its input is open
            assert child.wait(60) == 0
        pages.append((site / "platform.html").read_bytes())
    assert pages[0] == pages[1] and b"executable='/usr/bin/python3'" in pages[0]


def test_another_version_of_a_package_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(*packages: str) -> dict[str, object]:
        return config.identity(config.parse(PydocConfig, {"packages": packages}, "pydoc"))

    assert identity("stdlib", "json")["versions"] == []
    before, everything, stdlib = identity("numpy"), identity("all"), identity("stdlib")
    assert before["versions"] == [f"numpy {metadata.version('numpy')}"]
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == "numpy" else real(name))
    assert identity("numpy")["versions"] == ["numpy 99.0"] != before["versions"]
    assert identity("all") != everything and identity("stdlib") == stdlib
    with pytest.raises(ValueError, match=r"versions: installed are numpy 99\.0, not numpy 1\.0"):
        config.parse(PydocConfig, {"packages": ["numpy"], "versions": ["numpy 1.0"]}, "pydoc")
