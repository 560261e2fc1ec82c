"""Serve the page of a run or of a sweep to this machine alone, while it goes on and after."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fedpurel_app.core.errors import ConfigError, FedPurelError
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.page.blocks import Page
from fedpurel_app.reporting.page.render import POLICY, render
from fedpurel_app.reporting.page.run_page import run_page
from fedpurel_app.reporting.page.snapshot import Snapshot, stamp, stamp_of_sweep
from fedpurel_app.reporting.page.sweep_page import sweep_page
from fedpurel_app.reporting.page.write import is_sweep

_HOST = "127.0.0.1"
_REFRESH = 10  # seconds
_PATIENCE = 10.0  # seconds that a browser may take to say what it wants
_HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def follow(path: Path, port: int, tell: Callable[[str], None]) -> None:
    """Serve the page of a run or of a sweep until an interrupt.

    Parameters
    ----------
    path : Path
        Its folder.
    port : int
        Of this machine; 0 takes a free one.
    tell : callable
        Is told the address, which nobody can guess.

    Raises
    ------
    StateError
        When the folder holds neither a run nor a sweep.
    ConfigError
        When the port is taken.
    """
    with Server(path, port) as server, contextlib.suppress(KeyboardInterrupt):
        tell(server.address)
        server.serve_forever()


class Pages:
    """The page of a run or of a sweep as it is now, made anew only when a file of its folder is another.

    Parameters
    ----------
    path : Path

    Raises
    ------
    StateError
        When the folder holds neither a run nor a sweep.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._is_sweep, self._lock = path, is_sweep(path), threading.Lock()
        self._stamp: tuple[object, ...] | None = None
        self._text = b""
        self.made = 0

    def current(self) -> bytes:
        """Return the page; raises FedPurelError when a file of the folder is damaged."""
        with self._lock:
            # before the files are read: what changes meanwhile is read at the next call
            now = stamp_of_sweep(self._path) if self._is_sweep else stamp(self._path)
            if now != self._stamp:
                self._text = render(self._page()).encode()
                self._stamp = now
                self.made += 1
            return self._text

    def _page(self) -> Page:
        if self._is_sweep:
            return sweep_page(self._path, refresh=_REFRESH)
        return run_page(Snapshot(self._path), _REFRESH)


class Server(ThreadingHTTPServer):
    """Listens on the loopback interface, and knows one path, which has a random token in it.

    Parameters
    ----------
    path : Path
    port : int

    Raises
    ------
    StateError, ConfigError
        As :func:`follow`.
    """

    daemon_threads = True
    allow_reuse_address = False  # which lets no other process take over a port that is in use

    def __init__(self, path: Path, port: int) -> None:
        self.pages, self.token = Pages(path), secrets.token_urlsafe(24)
        try:
            super().__init__((_HOST, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"--port {port} cannot be listened on ({error.strerror}): choose another, or leave it out."
            ) from error

    @property
    def address(self) -> str:
        """The page's address."""
        return f"http://{_HOST}:{self.server_port}/{self.token}/"

    def server_bind(self) -> None:
        """Bind, without asking the network what this machine is called."""
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = _HOST, int(self.socket.getsockname()[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that hung up."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = _PATIENCE
    protocol_version = "HTTP/1.0"  # a connection for each request: none keeps a thread

    def do_GET(self) -> None:
        """Answer with the page."""
        if not self._is_meant():
            self._answer(HTTPStatus.NOT_FOUND, b"not found\n")
            return
        try:
            page = self.server.pages.current()
        except Exception as error:  # of a fault of ours, too, a browser shows the reason, not an empty page
            kind = "" if isinstance(error, FedPurelError) else f"{type(error).__name__}: "
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"error: {kind}{clean(str(error), 2000)}\n".encode())
            return
        self._answer(HTTPStatus.OK, page, "text/html")

    do_HEAD = do_GET  # noqa: N815

    def _is_meant(self) -> bool:
        """Tell whether a request has the token, and was sent to this machine by this machine's name.

        A page elsewhere whose own name leads here, by its owner's name server, has that name in its requests. The path
        is taken as it was sent: ``path`` has fewer slashes.
        """
        hosts = {f"{name}:{self.server.server_port}" for name in (_HOST, "localhost")}
        wanted = f"/{self.server.token}/"
        return self.headers.get_all("Host", []) in [[host] for host in hosts] and secrets.compare_digest(
            self.requestline.split()[1].encode("latin-1", "replace"), wanted.encode()
        )

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no GET and no HEAD, or no HTTP, without repeating anything of it."""
        is_method = code == HTTPStatus.NOT_IMPLEMENTED
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED if is_method else HTTPStatus(code), b"not allowed\n")

    def _answer(self, status: HTTPStatus, content: bytes, kind: str = "text/plain") -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Return what the server calls itself, without versions."""
        return "fedpurel"

    def log_message(self, format: str, *args: object) -> None:
        """Keep no log: its lines would have the token."""
