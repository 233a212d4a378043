"""An S3 and HTTP server with byte ranges on the loopback: moto's, behind a proxy that counts and fails when told to."""

import http.client
import logging
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
from botocore.config import Config
from moto.server import ThreadedMotoServer

from tests.http_handler import Quiet

BUCKET = "sets"


class RangeServer:
    """A bucket that is read over S3 as s3://sets/… and over HTTP below `url`/sets/.

    `faults` holds, by key, what happens to the next reads of it, in order: ("status", code, headers, body),
    ("drop", bytes sent before the connection is cut), ("short", bytes that come, announced as all),
    ("whole",): the file from its beginning although a range was asked for. `sent` counts the bytes of
    bodies by key, `asked` the reads.
    """

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        _, self.port = self._moto.get_host_and_port()
        self.s3 = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="tests",
            aws_secret_access_key="tests",
            config=Config(s3={"addressing_style": "path"}),
        )
        self.s3.create_bucket(Bucket=BUCKET, ACL="public-read")
        self.faults = defaultdict(list)
        self.sent, self.asked = Counter(), Counter()
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._proxy.daemon_threads = True
        threading.Thread(target=self._proxy.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"

    def reset(self):
        """An empty bucket again, without faults or counts."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        for item in [item for page in pages for item in page.get("Contents", [])]:
            self.s3.delete_object(Bucket=BUCKET, Key=item["Key"])
        for counts in (self.faults, self.sent, self.asked):
            counts.clear()

    def put(self, key, content):
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=content, ACL="public-read")

    def publish(self, folder: Path, prefix: str):
        """Put a folder's files below `prefix`, in place of what was there under the same names."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def remove(self, key):
        self.s3.delete_object(Bucket=BUCKET, Key=key)

    def close(self):
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()


def _handler(server):
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer((None,))

        def do_GET(self):
            key = self.path.split("?")[0].removeprefix(f"/{BUCKET}").lstrip("/")
            server.asked[key] += 1
            faults = server.faults[key]
            server.sent[key] += self.answer(faults.pop(0) if faults else (None,))

        def answer(self, fault):
            """Bytes of the body that were sent."""
            if fault[0] == "status":
                return self.send(fault[1], fault[2], fault[3])
            kept = {"Range": self.headers.get("Range")} if fault[0] != "whole" else {}
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            headers = {name: value for name, value in kept.items() if value}
            connection.request(self.command, self.path, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            wanted = ("ETag", "Content-Type", "Content-Range", "Last-Modified")
            headers = {name: answer.headers[name] for name in wanted if answer.headers[name]}
            if self.command == "HEAD":
                headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            if fault[0] == "short":
                content = content[: fault[1]]
            cut = fault[1] if fault[0] == "drop" else None
            return self.send(answer.status, headers, content, cut)

        def send(self, status, headers, content, cut=None):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True
            return len(content[:cut])

    return Handler
