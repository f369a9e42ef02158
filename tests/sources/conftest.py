"""A Kaggle on loopback for the real client, scripted to fail; and a project that downloads from it."""

import io
import os
import random
import ssl
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from ruamel.yaml import YAML

from stages import download
from stages.errors import run
from stages.sources import kaggle as source

REPO = Path(__file__).parents[2]
TOKEN = "KGAT_good"
ROUTES = {
    "/api/v1/security.OAuthService/IntrospectToken": "token",
    "/api/v1/datasets.DatasetApiService/DownloadDataset": "api",
    "/archive.zip": "storage",
}

Answer = Callable[["Handler"], None]


class Seen(NamedTuple):
    """A request that the server got."""

    route: str
    headers: dict[str, str]
    body: str


class LoopbackKaggle(ThreadingHTTPServer):
    """Introspects tokens, redirects downloads to its storage and serves ``archive`` there, with ETag and Range.

    ``script[route]`` holds answers to give first, in their order; ``seen`` is every request so far, and ``sent`` the
    bytes of the archive that were sent ``slowly``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archive = b""
        self.etag = '"one"'
        self.storage_url = "http://storage.test/archive.zip?signature=secret"  # no such host: only the proxy answers
        self.seen: list[Seen] = []
        self.sent = 0
        self.script: dict[str, list[Answer]] = {"token": [], "api": [], "storage": []}
        self.released = threading.Event()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer in a thread while the block runs, then let go of clients that still wait."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield
        finally:
            self.released.set()
            self.shutdown()

    def count(self, route: str) -> int:
        """The number of requests to a route so far."""
        return sum(seen.route == route for seen in self.seen)

    def ranges(self) -> list[str | None]:
        """What each request to the storage asked for, None for all."""
        return [seen.headers.get("Range") for seen in self.seen if seen.route == "storage"]

    @staticmethod
    def error(status: int, **headers: str) -> Answer:
        """Refuse, as Kaggle does, in JSON."""
        return lambda handler: handler.answer(status, b'{"message": "no"}', "application/json", headers)

    @staticmethod
    def html(status: int = 200) -> Answer:
        """Answer with a page for people."""
        return lambda handler: handler.answer(status, b"<html>Please log in</html>", "text/html; charset=utf-8", {})

    @staticmethod
    def silence(handler: "Handler") -> None:
        """Never answer."""
        handler.server.released.wait(60)

    @staticmethod
    def drop(handler: "Handler") -> None:
        """Close the connection without an answer."""
        handler.close_connection = True

    @staticmethod
    def broken_after(size: int) -> Answer:
        """Promise the archive, send its first bytes, close the connection."""

        def answer(handler: "Handler") -> None:
            handler.promise_archive()
            handler.wfile.write(handler.server.archive[:size])
            handler.close_connection = True

        return answer

    @staticmethod
    def silent_after(size: int) -> Answer:
        """Send the archive from where the client wants it, up to byte ``size``; then no more."""

        def answer(handler: "Handler") -> None:
            start = handler.promise_archive()
            handler.wfile.write(handler.server.archive[start:size])
            handler.server.released.wait(60)

        return answer

    @staticmethod
    def slowly(handler: "Handler") -> None:
        """Send the archive from where the client wants it, in about a second for all of it, and count the bytes."""
        archive = handler.server.archive
        piece = len(archive) // 250
        for start in range(handler.promise_archive(), len(archive), piece):
            handler.server.released.wait(0.004)
            handler.wfile.write(archive[start : start + piece])
            handler.server.sent += len(archive[start : start + piece])

    @staticmethod
    def trickle(handler: "Handler") -> None:
        """Send a byte now and then."""
        handler.promise_archive()
        for byte in handler.server.archive:
            if handler.server.released.wait(0.01):
                return
            handler.wfile.write(bytes([byte]))


class Handler(BaseHTTPRequestHandler):
    """One request, through the proxy or not."""

    protocol_version = "HTTP/1.1"
    server: LoopbackKaggle

    def do_POST(self) -> None:
        """Answer by the script, or else well."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        path = self.path.removeprefix("http://localhost").removeprefix("http://storage.test").partition("?")[0]
        route = ROUTES[path]
        self.server.seen.append(Seen(route, dict(self.headers), body))
        script = self.server.script[route]
        try:
            (script.pop(0) if script else getattr(Handler, route))(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has gone

    do_GET = do_POST  # noqa: N815

    def token(self) -> None:
        """Say whose token it is."""
        active = f'"{TOKEN}"' in self.server.seen[-1].body
        content = b'{"active": true, "username": "someone"}' if active else b'{"active": false}'
        self.answer(200, content, "application/json", {})

    def api(self) -> None:
        """Send to the storage, as Kaggle answers a request for a download."""
        self.redirect(self.server.storage_url)

    def redirect(self, address: str) -> None:
        """Send elsewhere."""
        self.answer(302, b"", "text/html", {"Location": address})

    def storage(self) -> None:
        """Send the archive, from where the client wants it."""
        start = self.promise_archive()
        self.wfile.write(self.server.archive[start:])

    def promise_archive(self) -> int:
        """Send the head of a good answer, whole or partial; return the first byte wanted."""
        size, start = len(self.server.archive), 0
        if self.headers.get("Range") and self.headers.get("If-Range") in (None, self.server.etag):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Length", str(size - start))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        return start

    def answer(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackKaggle]:
    """The server, with the client led to it, logged out, and imported anew: it reads the environment at import."""
    with LoopbackKaggle() as server, server.serving():
        for name in os.environ:
            if name.startswith("KAGGLE_") or name.upper().endswith("_PROXY") or name in ("DVC_ROOT", "VERBOSE"):
                monkeypatch.delenv(name)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("kaggle", "kagglesdk")]:
            monkeypatch.delitem(sys.modules, name)
        (tmp_path / "home").mkdir()
        address = f"http://127.0.0.1:{server.server_port}"
        for name, value in {
            "HOME": str(tmp_path / "home"),
            "XDG_CONFIG_HOME": str(tmp_path / "home/.config"),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "HTTP_PROXY": address,
            "HTTPS_PROXY": address,
            "NO_PROXY": "",
        }.items():
            monkeypatch.setenv(name, value)
        server.archive = archive_of("real", "fake")
        yield server


@pytest.fixture
def tls_storage(tmp_path: Path) -> Iterator[LoopbackKaggle]:
    """A storage that speaks TLS, with a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "storage.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with LoopbackKaggle() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with server.serving():
            yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, in seconds, as they are made; none of them passes."""
    made: list[float] = []

    class Clock:
        monotonic = source.time.monotonic
        sleep = made.append

    monkeypatch.setattr(source, "time", Clock)
    return made


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An empty project as the working directory; call it to write its params.yaml, anew if need be."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)

    def write(source: str = "kaggle", dataset: str = "someone/faces", sha256: str | None = None) -> None:
        params = YAML(typ="safe").load(REPO / "params.yaml")
        params["sets"]["faces"] |= {
            "source": source,
            "dataset": dataset,
            "sha256": sha256,
            "sample": {"faces_per_class": 8, "size": 32, "seed": 1},
        }
        params["weights"]["source"] = "random"
        params["split"]["method"] = "stratified"
        YAML().dump(params, Path("params.yaml"))

    write()
    monkeypatch.setattr(sys, "argv", ["download", "faces"])
    return write


@pytest.fixture
def logged_in(kaggle: LoopbackKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)


@pytest.fixture
def refusal(project: Callable[..., None]) -> Callable[[], str]:
    """Run the stage, which must refuse in one line with exit code 1 and publish nothing; return that line."""

    def refusal() -> str:
        with pytest.raises(SystemExit) as exit_:
            run(download.main)
        # Python prints a text given to sys.exit, and nothing else, and exits with 1.
        assert isinstance(exit_.value.code, str)
        assert exit_.value.code.startswith("error: ")
        assert "\n" not in exit_.value.code
        assert "secret" not in exit_.value.code
        assert list(Path("data").rglob("*.*")) == []
        return exit_.value.code.removeprefix("error: ")

    return refusal


@pytest.fixture
def zipped() -> Callable[..., bytes]:
    return archive_of


def archive_of(*folders: str, size: int = 30_000) -> bytes:
    """A zip with three files of incompressible bytes in each folder."""
    noise = random.Random(1)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as members:
        for folder in folders:
            for number in range(3):
                members.writestr(f"{folder}/{number}.jpg", noise.randbytes(size))
    return content.getvalue()
