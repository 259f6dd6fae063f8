"""A stand-in for a Hugging Face hub and the host of its large files, which behaves as badly as a test asks it to."""

import hashlib
import json
import re
import ssl
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 4096  # from which on a file is LFS's


@dataclass
class Repository:
    """A model's files at its only commit, and what the hub does with requests for them."""

    files: dict[str, bytes]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main", COMMIT)
    token: str = ""  # that a request needs
    is_gated: bool = False
    page_size: int = 1000  # of the listing


@dataclass
class Faults:
    """What goes wrong, each for so many requests of files' bytes or, where it says so, of anything."""

    cut_after: list[int] = field(default_factory=list)  # bytes after which a connection breaks, one each
    statuses: list[tuple[int, dict]] = field(default_factory=list)  # of anything: status and headers, one each
    wrong_bytes: int = 0
    ignore_ranges: bool = False
    stall: int = 0  # sends half and nothing more
    tag: str = ""  # X-Linked-Etag in the place of the file's
    commit: str = ""  # X-Repo-Commit in the place of the repository's


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def digest(data: bytes) -> str:
    """Returns the name of a blob with these bytes."""
    return hashlib.sha256(data).hexdigest() if len(data) >= LARGE_BYTES else git_digest(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler, hub, certificate):
        super().__init__(("127.0.0.1", 0), handler)
        self.hub, self.scheme = hub, "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
            self.scheme = "https"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self):
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Says nothing: a client that goes away is what tests have it do."""


class StandInHub:
    """Two servers: the hub, and the host of large files, to which the hub redirects. `requests` has all that came.

    With a `certificate`, a PEM file that holds its key too, both speak TLS.
    """

    def __init__(self, repositories: dict[str, Repository], certificate=None):
        self.repositories = repositories
        self.faults = Faults()
        self.lock = threading.Lock()
        self.requests: list[tuple[str, str, dict]] = []  # host, path, headers
        self.released = threading.Event()
        self.store, self.hub = Server(Store, self, certificate), Server(Hub, self, certificate)

    @property
    def address(self):
        return self.hub.address

    def close(self):
        self.released.set()
        for server in (self.hub, self.store):
            server.shutdown()
            server.server_close()

    def take(self, name: str):
        """Returns the next fault of a kind, None where there is none."""
        with self.lock:
            value = getattr(self.faults, name)
            if isinstance(value, list):
                return value.pop(0) if value else None
            if value:
                setattr(self.faults, name, value - 1)
            return value or None

    def blob(self, name: str) -> bytes | None:
        for repository in self.repositories.values():
            for data in repository.files.values():
                if digest(data) == name:
                    return data
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def note(self, host: str):
        with self.server.hub.lock:
            self.server.hub.requests.append((host, self.path, {name.lower(): value for name, value in self.headers.items()}))

    def answer(self, status: int, body: bytes = b"", **headers: str):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_bytes(self, data: bytes, **headers: str):
        """Sends a file's bytes, with the faults that are asked for."""
        hub = self.server.hub
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(wanted.group(1)) if wanted and not hub.faults.ignore_ranges else None
        if begin is not None and begin >= len(data):
            return self.answer(416, Content_Range=f"bytes */{len(data)}")
        rest = data[begin or 0:]
        if hub.take("wrong_bytes"):
            rest = bytes(byte ^ 1 for byte in rest)
        if begin is not None:
            headers["Content_Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        cut = hub.take("cut_after")
        if cut is None and not hub.take("stall"):
            return self.answer(206 if begin is not None else 200, rest, **headers)
        self.send_response(206 if begin is not None else 200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[:len(rest) // 2 if cut is None else cut])
        self.wfile.flush()
        if cut is None:
            hub.released.wait(60)
        self.close_connection = True


class Store(Handler):
    def do_GET(self):
        self.note("store")
        data = self.server.hub.blob(self.path.strip("/").split("?")[0])
        self.answer(404) if data is None else self.send_bytes(data)


class Hub(Handler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.note("hub")
        fault = self.server.hub.take("statuses")
        if fault:
            return self.answer(fault[0], b"{}", **fault[1])
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)  # whole addresses come to a proxy
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        repository = self.server.hub.repositories.get(found.group(1)) if found else None
        if not self.may_have(repository):
            return None
        revision = api.group(3) if api else file.group(2)
        if revision not in (*repository.revisions, repository.commit):
            return self.answer(404, b"{}", X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        if file:
            return self.resolve(repository, file.group(3))
        return self.answer_json({"id": api.group(1), "sha": repository.commit}) if api.group(2) == "revision" else self.tree(repository)

    def may_have(self, repository: Repository | None) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository is None:
            self.answer(404 if given else 401, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif repository.token and given and given != repository.token and not repository.is_gated:
            self.answer(401, b"{}", X_Error_Message="Invalid credentials in Authorization header")
        elif repository.token and given != repository.token:
            code = "GatedRepo" if repository.is_gated else "RepoNotFound"
            self.answer(403 if given else 401, b"{}", X_Error_Code=code, X_Error_Message="Access is restricted")
        else:
            return True
        return False

    def answer_json(self, value, **headers: str):
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def tree(self, repository: Repository):
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "folder"}]
        for path, data in repository.files.items():
            entry = {"type": "file", "oid": git_digest(data), "size": len(data), "path": path}
            if len(data) >= LARGE_BYTES:
                entry["lfs"] = {"oid": digest(data), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        begin = int(query.get("cursor", ["0"])[0])
        end = begin + repository.page_size
        more = {"Link": f'<{self.server.address}{self.path.split("?")[0]}?cursor={end}>; rel="next"'} if end < len(entries) else {}
        self.answer_json(entries[begin:end], **more)

    def resolve(self, repository: Repository, path: str):
        data, faults = repository.files.get(path), self.server.hub.faults
        if data is None:
            return self.answer(404, b"{}", X_Error_Code="EntryNotFound", X_Repo_Commit=repository.commit)
        headers = {"X_Repo_Commit": faults.commit or repository.commit, "ETag": f'"{digest(data)}"'}
        if len(data) < LARGE_BYTES:
            return self.send_bytes(data, **headers)
        headers.update(X_Linked_Etag=f'"{faults.tag or digest(data)}"', X_Linked_Size=str(len(data)))
        return self.answer(302, b"Found", Location=f"{self.server.hub.store.address}/{digest(data)}?signature=x", **headers)
