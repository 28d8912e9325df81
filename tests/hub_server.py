"""A hub on this machine: the few requests of the real one that a download makes, failures on demand."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 100_000
"""Files from this size on are listed with a sha256, as the hub does for large files."""


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked.

    Attributes:
        repositories: content of each file, by repository and name.
        break_after: bytes of a file after which the connection is cut, by name; each happens once.
        corrupt: names of files that are sent with a wrong byte.
        ignores_ranges: answers every request with the whole file.
        status: HTTP status of every answer instead of the right one; None answers.
        requests: method, path and Range header of each request.
        endpoint: URL of the server.
    """

    repositories: dict[str, dict[str, bytes]]
    break_after: dict[str, int] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    ignores_ranges: bool = False
    status: int | None = None
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def listing(self, repo_id: str) -> bytes:
        """Return what the hub says about a repository."""
        siblings = []
        for name, content in self.repositories[repo_id].items():
            git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            sibling = {"rfilename": name, "size": len(content), "blobId": git}
            if len(content) >= LARGE_BYTES:
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        info = {"id": repo_id, "modelId": repo_id, "sha": COMMIT, "private": False, "siblings": siblings}
        return json.dumps(info | {"tags": [], "downloads": 0, "likes": 0}).encode()

    def fetched(self) -> list[str]:
        """Return the names of the files that were asked for, each time."""
        return [path.rsplit(f"/{COMMIT}/", 1)[1] for _, path, _ in self.requests if "/resolve/" in path]


@contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            span = self.headers.get("Range")
            hub.requests.append(("GET", path, span))
            if hub.status is not None:
                self._answer(hub.status, b"{}")
            elif path.startswith("/api/models/"):
                repo_id = path.removeprefix("/api/models/").split("/revision/")[0]
                known = repo_id in hub.repositories
                self._answer(200 if known else 404, hub.listing(repo_id) if known else b"{}")
            elif "/resolve/" not in path:
                self._answer(404, b"{}")
            else:
                repo_id, _, name = path[1:].partition(f"/resolve/{COMMIT}/")
                self._send_file(name, hub.repositories[repo_id][name], span)

        def _send_file(self, name: str, content: bytes, span: str | None) -> None:
            if name in hub.corrupt:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = 0 if span is None or hub.ignores_ranges else int(span[len("bytes=") :].split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            limit = hub.break_after.pop(name, None)
            self.wfile.write(content[start:] if limit is None else content[start:limit])
            self.close_connection = limit is not None

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
