"""PMC's bucket on the loopback: moto's S3 server, behind a proxy that counts requests and fails when told to."""

import gzip
import hashlib
import http.client
import json
import logging
import threading
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from botocore.config import Config
from moto.server import ThreadedMotoServer

from tests.http_handler import Quiet

BUCKET = "pmc-oa-opendata"
INVENTORIES = f"inventory-reports/{BUCKET}/metadata"


def jats(pmcid, text="A sentence about cells.", size=0):
    """An article; `size` adds so many letters that no compressor can do much about."""
    padding = hashlib.shake_128(f"{pmcid}{text}".encode()).hexdigest(size // 2)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<article article-type="research-article">'
        f'<front><article-meta><article-id pub-id-type="pmcid">{pmcid}</article-id><title-group>'
        f"<article-title>About {pmcid}</article-title></title-group></article-meta></front>"
        f"<body><p>{text} {padding}</p></body></article>"
    ).encode()


class PmcServer:
    """The bucket, empty at first; `url` is the proxy's.

    `faults` holds, by key (without the bucket), answers to give once each, in order: ("status", code,
    headers, body), ("drop", bytes sent before the connection is cut), ("content", other bytes with the right
    ETag), ("wait", seconds). `requests` are the keys asked for, in order of arrival.
    """

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(port=0, verbose=False)
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
        self.faults = defaultdict(list)
        self.requests = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._proxy.daemon_threads = True
        threading.Thread(target=self._proxy.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"

    def reset(self):
        """An empty bucket again, without faults."""
        if BUCKET in [bucket["Name"] for bucket in self.s3.list_buckets()["Buckets"]]:
            if here := [{"Key": key} for key in self.keys("")]:
                self.s3.delete_objects(Bucket=BUCKET, Delete={"Objects": here})
        else:
            self.s3.create_bucket(Bucket=BUCKET)
        self.faults.clear()
        self.requests.clear()
        self.most_at_once = 0

    def put(self, key, content):
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=content, ACL="public-read")

    def objects(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item for page in pages for item in page.get("Contents", [])]

    def keys(self, prefix):
        return [item["Key"] for item in self.objects(prefix)]

    def publish(self, name, xml=None, **about):
        """Put an article version such as PMC1.1, as far as anyone reads it."""
        pmcid, version = name.split(".")
        xml = jats(pmcid) if xml is None else xml
        record = {
            "pmcid": pmcid,
            "version": int(version),
            "pmid": None,
            "doi": None,
            "title": f"About {pmcid}",
            "citation": "J Test. 2026",
            "is_pmc_openaccess": True,
            "is_manuscript": False,
            "is_historical_ocr": False,
            "is_retracted": False,
            "license_code": "CC BY",
            "xml_url": f"s3://{BUCKET}/{name}/{name}.xml?md5={hashlib.md5(xml).hexdigest()}",
            **about,
        }
        content = json.dumps(record).encode()
        self.put(f"{name}/{name}.xml", xml)
        self.put(f"metadata/{name}.json", content)

    def remove(self, name):
        for key in (f"{name}/{name}.xml", f"metadata/{name}.json"):
            self.s3.delete_object(Bucket=BUCKET, Key=key)

    def take_inventory(self, stamp, files=2):
        """List the metadata there are now in an inventory of that time."""
        rows = []
        for item in self.objects("metadata/"):
            key, etag = item["Key"], item["ETag"].strip('"')
            rows.append(f'"{BUCKET}","{key}","2026-11-20T01:00:00.000Z","{etag}"\n')
        entries = []
        for number in range(files):
            data = gzip.compress("".join(rows[number::files]).encode())
            key = f"{INVENTORIES}/data/{stamp}-{number}.csv.gz"
            self.put(key, data)
            md5 = hashlib.md5(data).hexdigest()
            entries.append({"key": key, "size": len(data), "MD5checksum": md5})
        manifest = {
            "sourceBucket": BUCKET,
            "version": "2016-11-30",
            "fileFormat": "CSV",
            "fileSchema": "Bucket, Key, LastModifiedDate, ETag",
            "files": entries,
        }
        self.put(f"{INVENTORIES}/{stamp}/manifest.json", json.dumps(manifest).encode())
        self.put(f"{INVENTORIES}/hive/dt=2026-01-01-01-00/symlink.txt", b"s3://elsewhere")

    def fetched(self):
        """How often each object of an article was asked for, since the last call."""
        found = Counter(key for key in self.requests if key.startswith(("PMC", "metadata/")))
        self.requests.clear()
        return found

    def arrives(self, key):
        with self._lock:
            self.requests.append(key)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def leaves(self):
        with self._lock:
            self._at_once -= 1

    def close(self):
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()


def _handler(server):
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            key = self.path.split("?")[0].removeprefix(f"/{BUCKET}").lstrip("/")
            server.arrives(key)
            try:
                self.answer(server.faults[key].pop(0) if server.faults.get(key) else (None,))
            finally:
                server.leaves()

        def answer(self, fault):
            if fault[0] == "wait":
                time.sleep(fault[1])
            if fault[0] == "status":
                return self.send(fault[1], fault[2], fault[3])
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            connection.request(self.command, self.path)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            headers = {
                name: answer.headers[name]
                for name in ("ETag", "Content-Type", "Last-Modified")
                if answer.headers[name]
            }
            if self.command == "HEAD":
                headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            content = fault[1] if fault[0] == "content" else content
            self.send(answer.status, headers, content, fault[1] if fault[0] == "drop" else None)

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

    return Handler
