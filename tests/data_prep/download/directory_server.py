"""A real HTTP server on the loopback that lists a folder as NLM's does, and fails when told to."""

import hashlib
import re
import threading
from collections import Counter, defaultdict
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.http_handler import Quiet


class DirectoryServer:
    """Serves `files` (path: bytes). `faults` holds, by path, answers to give once each, in order.

    A fault is ("status", code, headers), ("drop", bytes sent before the connection is cut) or
    ("content", other bytes). `requests` are (method, path, Range header) in order of arrival.
    """

    def __init__(self):
        self.files = {}
        self.etags = True
        self.ranges = True
        self.faults = defaultdict(list)
        self.requests = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def publish(self, path, content, md5=None):
        """Put a file and, as NLM does, its checksum; `md5=False` leaves the checksum out."""
        name = path.rpartition("/")[2]
        self.files[path] = content
        if md5 is not False:
            digest = md5 or hashlib.md5(content).hexdigest()
            self.files[f"{path}.md5"] = f"MD5({name})= {digest}\n".encode()

    def fetched(self):
        """How often each data file was asked for, since the last call."""
        paths = [path for method, path, _ in self.requests if method == "GET"]
        self.requests.clear()
        return Counter(path for path in paths if not path.endswith((".md5", "/")))

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def _handler(server):
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            server.requests.append((self.command, self.path, self.headers.get("Range")))
            faults = server.faults[self.path]
            fault = faults.pop(0) if body and faults else (None,)
            if fault[0] == "status":
                return self.send(fault[1], b"", fault[2], body)
            if self.path.endswith("/") and fault[0] != "content":
                return self.send(200, self.page(), {"Content-Type": "text/html"}, body)
            content = fault[1] if fault[0] == "content" else server.files.get(self.path)
            if content is None:
                return self.send(404, b"", {}, body)
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            headers = {"Last-Modified": formatdate(0, usegmt=True), "ETag": etag}
            headers = headers if server.etags else {}
            start = self.start(etag)
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if start >= len(content) > 0:
                return self.send(416, b"", {}, body)
            cut = fault[1] if fault[0] == "drop" else None
            self.send(206 if start else 200, content[start:], headers, body, cut)

        def start(self, etag):
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = self.headers.get("If-Range", etag) == etag
            return int(asked[1]) if asked and same and server.ranges else 0

        def page(self):
            below = [p.removeprefix(self.path) for p in server.files if p.startswith(self.path)]
            links = ["../", "?C=M;O=A", *sorted({name.split("/")[0] for name in below})]
            items = "".join(f'<a href="{link}">{link}</a> 2026-01-30 20M\n' for link in links)
            return f"<html><body><h1>Index</h1><pre>{items}</pre></body></html>".encode()

        def send(self, status, content, headers, body, cut=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content[:cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True

    return Handler
