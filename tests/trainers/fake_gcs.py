"""A server on this machine that answers as Google's Cloud Storage does, to TensorFlow's own client of `gs://`.

It stands behind the proxy that the environment names (`GCS.environment`), with a certificate that a new authority has
signed. What it knows of the interface is what TensorFlow 2.20 asks.
"""

import http.server
import json
import re
import socketserver
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path

HOSTS = ("www.googleapis.com", "storage.googleapis.com")


class GCS(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The server, from construction to `close`.

    Attributes:
        objects: (bucket, name) -> content. Requests for a bucket "closed" are refused.
        uploading: called with each name before its content is stored.
        requests: method, path and range of each.
        environment: what processes need to take this server for Google's.
    """

    daemon_threads = True
    request_queue_size = 128  # of two processes with 16 shards each, while this one is not given the processor

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[tuple[str, str], bytes] = {}
        self.uploading: Callable[[str], None] = lambda name: None
        self.requests: list[tuple[str, str, str | None]] = []
        self.sessions: list[tuple[str, str]] = []
        self.generation = 0
        self.lock = threading.Lock()
        _make_certificates(folder)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(folder / "server.pem", folder / "server.key")
        self.environment = {
            "https_proxy": f"http://127.0.0.1:{self.server_port}",
            "no_proxy": "127.0.0.1,localhost",  # the processes of a group speak directly
            "CURL_CA_BUNDLE": str(folder / "authority.pem"),
            "NO_GCE_CHECK": "true",  # nobody to ask for credentials
            "GCS_RETRY_CONFIG_MAX_RETRIES": "1",
        }
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self.shutdown()
        self.server_close()

    def names(self, bucket: str) -> list[str]:
        """Of all objects but those that stand for folders."""
        return sorted(name for owner, name in self.objects if owner == bucket and not name.endswith("/"))

    def handle_error(self, request, client_address) -> None:
        """A client that was killed in a request is no error."""


def _make_certificates(folder):
    (folder / "hosts").write_text("subjectAltName=" + ",".join(f"DNS:{host}" for host in HOSTS))
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    authority = ["-x509", "-keyout", "authority.key", "-out", "authority.pem", "-subj", "/CN=test", "-days", "2"]
    signed = ["-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-extfile", "hosts", "-days", "2"]
    for command in (
        [*new, *authority, "-addext", "basicConstraints=critical,CA:TRUE"],
        [*new, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={HOSTS[0]}"],
        ["openssl", "x509", "-req", "-in", "server.csr", "-out", "server.pem", *signed],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        with self.server.tls.wrap_socket(self.connection, server_side=True) as connection, self.rfile, self.wfile:
            self.rfile, self.wfile = connection.makefile("rb"), connection.makefile("wb", 0)
            self.close_connection = False
            while not self.close_connection:
                self.handle_one_request()

    def _answer_request(self):
        body = self._body()
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        if "/closed" in url.path:
            return self._answer(403, {"error": {"code": 403, "message": "no access"}})
        for pattern, answer in (
            (r"/upload/storage/v1/b/([^/]+)/o", self._begin_upload),
            (r"/session/(\d+)", self._end_upload),
            (r"/storage/v1/b/([^/]+)/o/(.+)", self._about),
            (r"/storage/v1/b/([^/]+)/o", self._list),
            (r"/storage/v1/b/([^/]+)", lambda *_: self._answer(200, {"location": "us"})),
            (r"/([^/]+)/(.+)", self._read),
        ):
            if match := re.fullmatch(pattern, url.path):
                return answer(*map(urllib.parse.unquote, match.groups()), query, body)
        return self._answer(500)

    do_GET = do_POST = do_PUT = do_DELETE = _answer_request  # noqa: N815

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _begin_upload(self, bucket, query, body):
        if query["uploadType"] == "media":  # what stands for a folder
            self.server.objects.setdefault((bucket, query["name"]), body)
            return self._answer(200, {})
        with self.server.lock:
            self.server.sessions.append((bucket, query["name"]))
            number = len(self.server.sessions) - 1
        return self._answer(200, {}, Location=f"https://{HOSTS[0]}/session/{number}")

    def _end_upload(self, number, query, body):
        bucket, name = self.server.sessions[int(number)]
        self.server.uploading(name)
        self.server.objects[bucket, name] = body
        self._answer(200, {})

    def _about(self, bucket, name, query, body):
        content = self.server.objects.get((bucket, name))
        if content is None:
            return self._answer(404)
        if self.command == "DELETE":
            del self.server.objects[bucket, name]
            return self._answer(204)
        with self.server.lock:
            self.server.generation += 1
        about = {"size": str(len(content)), "generation": str(self.server.generation)}
        return self._answer(200, about | {"updated": "2026-01-01T00:00:00.000Z"})

    def _list(self, bucket, query, body):
        start = query.get("prefix", "")
        found = sorted(name for owner, name in list(self.server.objects) if owner == bucket and name.startswith(start))
        prefixes = []
        if "delimiter" in query:
            below = [name for name in found if "/" in name[len(start) :]]
            prefixes = sorted({name[: name.index("/", len(start)) + 1] for name in below})
            found = sorted(set(found) - set(below))
        items = [{"name": name} for name in found[: int(query.get("maxResults", 1000))]]
        self._answer(200, {"items": items, "prefixes": prefixes})

    def _read(self, bucket, name, query, body):
        content = self.server.objects.get((bucket, name))
        if content is None:
            return self._answer(404)
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        return self._answer(206 if first < len(content) else 416, content[first : last + 1])
