"""A minimal web server on loopback that records the requests it receives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

BODY = b"SECRET BYTES" * 1000


class Server(ThreadingHTTPServer):
    """Answers GET requests only.

    Serves `files` by path. /to?URL redirects to the URL, /loop to itself. /short closes the connection early. /noise
    sends bytes that are not HTTP. Any other path begins with the status code to return.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {"/film.mp4": BODY, **(files or {})}
        self.site = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.site}"
        self.seen: list[tuple[str, str | None]] = []
        """Path and `Authorization` header of each request."""
        self.queries: list[str] = []


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        self.server.seen.append((path, self.headers.get("Authorization")))
        self.server.queries.append(query)
        if path in ("/to", "/loop"):
            self.send_response(302)
            self.send_header("Location", query or "/loop")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.server.files.get(path) == b"" and "Range" in self.headers:
            self.send_response(416)
            self.send_header("ETag", '"empty"')
            self.send_header("Content-Range", "bytes */0")
            self.end_headers()
        elif path in self.server.files:
            body = self.server.files[path]
            self.send_response(200)
            self.send_header("ETag", '"tag"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(BODY)
        elif path == "/noise":
            self.wfile.write(b"SECRET noise that is no HTTP\r\n\r\n")
        else:
            self.send_response(int(path[1:4]), "SECRET words")
            self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def serving(files: Mapping[str, bytes] | None = None) -> Iterator[Server]:
    """Run a `Server` in a thread. `files` maps paths to bodies, in addition to `/film.mp4`."""
    with Server(files) as server:
        Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
