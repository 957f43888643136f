"""Remote files: fetched to this disk for as long as they are read, over https or from S3, from where the last try broke off.

S3 is read through pyarrow: without signing where the environment names no AWS credentials, and at AWS_ENDPOINT_URL where that is set.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

SCHEMES = ("https://", "http://", "s3://")
STEP = 1 << 20
SLOWEST = 1000  # bytes a second, on average over `timeout` seconds: below it the server is taken to stall
LARGEST = 1 << 36  # bytes; a file that has no end must not fill the disk
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before the second try, doubled for each further one
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers after which another try makes sense
SIGNING = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


class Unreachable(OSError):
    """A remote file that cannot be had, and why."""


class _BrokenOff(Exception):
    """A try that failed in passing, and for how many seconds the server asks to be left alone."""

    def __init__(self, reason: str, pause: float = 0.0):
        super().__init__(reason)
        self.pause = pause


def disk_is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)


def is_remote(address: str) -> bool:
    return address.startswith(SCHEMES)


@contextlib.contextmanager
def local(address: str, scratch: Path, retries: int, timeout: float) -> Iterator[Path]:
    """The file at an address as one on this disk, while the block runs. Unreachable where it cannot be had."""
    if not is_remote(address):
        yield Path(address)
        return
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{os.getpid()}"
    try:
        download(address, path, retries, timeout)
        yield path
    finally:
        path.unlink(missing_ok=True)


def download(address: str, path: Path, retries: int, timeout: float, largest: int = LARGEST) -> None:
    """Fetch a file to `path`. What a try has brought is kept for the next one."""
    fetch = _from_s3 if address.startswith("s3://") else _from_web
    known: dict[str, str] = {}  # what the server said of the file, so that a try never goes on with another one
    with path.open("wb") as file:
        for left in range(retries, -1, -1):
            try:
                fetch(address, file, known, timeout, largest)
                return
            except _BrokenOff as error:
                if not left:
                    raise Unreachable(f"{address}: {error} ({retries + 1} tries)") from None
                pause = min(PAUSE * 2 ** (retries - left), LONGEST_PAUSE)
                time.sleep(max(pause, min(error.pause, LONGEST_PAUSE)))


def _from_web(address: str, file: BinaryIO, known: dict[str, str], timeout: float, largest: int) -> None:
    headers = {"User-Agent": "bessemer", "Accept-Encoding": "identity"}
    have = file.tell()
    if have and known.get("mark"):
        headers |= {"Range": f"bytes={have}-", "If-Range": known["mark"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(_quoted(address), headers=headers), timeout=timeout) as answer:
            if answer.status != 206 or not (answer.headers["Content-Range"] or "").startswith(f"bytes {have}-"):
                if answer.status == 206:
                    known.clear()  # an answer to another question: ask for the whole next time
                    raise _BrokenOff("the server sent another range than was asked for")
                file.seek(0)
                file.truncate()
            tag = answer.headers["ETag"] or ""
            known["mark"] = tag if tag and not tag.startswith("W/") else answer.headers["Last-Modified"] or ""
            length = answer.headers["Content-Length"] or ""
            total = file.tell() + int(length) if length.isdigit() else None
            _copy(answer.read1, address, file, timeout, largest)
            if total is not None and file.tell() < total:
                raise _BrokenOff(f"the connection broke off at {file.tell()} of {total} bytes")
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the last try had it all, or the file is shorter now: ask for the whole next time
            known.clear()
            raise _BrokenOff("the server has no more of it") from None
        if error.code not in PASSING:
            raise Unreachable(f"{address}: HTTP {error.code} {error.reason}".strip()) from None
        asked = error.headers["Retry-After"] or ""
        raise _BrokenOff(f"HTTP {error.code}", float(asked) if asked.isdigit() else 0.0) from None
    except http.client.InvalidURL as error:
        raise Unreachable(f"{address}: {error}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, Unreachable) or disk_is_full(error):
            raise
        said = "timeout" if "timed out" in str(error) else str(getattr(error, "reason", error)) or type(error).__name__
        raise _BrokenOff(said) from None


def _from_s3(address: str, file: BinaryIO, known: dict[str, str], timeout: float, largest: int) -> None:
    try:
        with _s3(timeout).open_input_file(address.removeprefix("s3://")) as source:
            if known.setdefault("size", str(source.size())) != str(source.size()):
                known["size"] = str(source.size())
                file.seek(0)
                file.truncate()
            source.seek(file.tell())
            _copy(source.read, address, file, timeout, largest)
    except FileNotFoundError:
        raise Unreachable(f"{address}: no such object") from None
    except OSError as error:
        if isinstance(error, Unreachable) or disk_is_full(error):
            raise
        said = " ".join(str(error).split())
        if any(word in said for word in ("ACCESS_DENIED", "NO_SUCH_BUCKET", "Access Denied", "HTTP status 403")):
            raise Unreachable(f"{address}: {said}") from None
        raise _BrokenOff(said) from None


def _copy(read: Any, address: str, file: BinaryIO, timeout: float, largest: int) -> None:
    began, start = time.monotonic(), file.tell()
    while piece := read(STEP):
        file.write(piece)
        if file.tell() > largest:
            raise Unreachable(f"{address}: more than {largest} bytes")
        spent = time.monotonic() - began
        if spent > timeout:
            if file.tell() - start < SLOWEST * spent:
                raise _BrokenOff(f"slower than {SLOWEST} bytes a second")
            began, start = time.monotonic(), file.tell()


def _quoted(address: str) -> str:
    return urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")


def below(address: str) -> list[tuple[str, int]]:
    """(address, bytes) of every object below an s3:// address, sorted. Unreachable where it cannot be listed."""
    from pyarrow import fs

    try:
        found = _s3(60.0).get_file_info(fs.FileSelector(address.removeprefix("s3://").rstrip("/"), recursive=True))
    except OSError as error:
        raise Unreachable(f"{address}: {' '.join(str(error).split())}") from None
    return sorted((f"s3://{info.path}", info.size) for info in found if info.is_file)


def _s3(timeout: float) -> Any:
    from pyarrow import fs

    options: dict[str, Any] = {"endpoint_override": endpoint} if (endpoint := os.environ.get("AWS_ENDPOINT_URL")) else {}
    # Retries are ours: they go on from where the last try broke off.
    strategy = fs.AwsDefaultS3RetryStrategy(max_attempts=1)
    anonymous = not any(name in os.environ for name in SIGNING)
    return fs.S3FileSystem(anonymous=anonymous, request_timeout=timeout, connect_timeout=timeout, retry_strategy=strategy, **options)
