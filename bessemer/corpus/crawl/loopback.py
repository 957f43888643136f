"""A folder of pages as a web site on this machine, so that local documentation is crawled like any other site."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@contextmanager
def serve(site: Path | None) -> Iterator[str]:
    """Serve a folder, or the folder site/ in it, on a free port of 127.0.0.1 while the block runs. Its origin; "" without a folder."""
    if site is None:
        yield ""
        return
    root = site / "site" if (site / "site").is_dir() else site
    if not root.is_dir():
        raise NotADirectoryError(f"site {site} is not a folder of pages")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Pages, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Pages(SimpleHTTPRequestHandler):
    """Files of a folder over HTTP/1.1, without dates: the same files give the same answers."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True

    def send_response(self, code: int, message: str | None = None) -> None:
        self.send_response_only(code, message)

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified":
            super().send_header(keyword, value)

    def log_message(self, format: str, *args: Any) -> None:
        pass
