"""The mode `serve`: a report's page in a browser on this machine, with samples that are made while it is looked at. What it answers is in `answers`.

Only programs on this machine reach the server. A page of another origin cannot read its answers (no CORS, and the Host header must be ours, against names that
are led here), and nobody can make it grow: connections, bytes and seconds of a request, and computations that wait are bounded.
"""

import contextlib
import io
import logging
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import jax

from causal_ctx.answers import MOST_QUERY, Answer, Refused, Served, answer, load, shown
from causal_ctx.config import ConfigError

LOG = logging.getLogger(__name__)
MOST_BYTES = 2**17  # of a request's line and headers
MOST_CONNECTIONS = 32
READ_SECONDS, WRITE_SECONDS, LINGER_SECONDS = 10.0, 30.0, 1.0  # for a whole request, a whole answer, and what a client sends after it


def run(config, workdir: Path, port: int) -> None:
    """Serves the page and the runs of `workdir`, a run or a folder of runs, at `port` of 127.0.0.1 (0: a free one) until Ctrl-C.

    Raises ConfigError for a port that is taken and in a pod, and what `answers.load` raises.
    """
    del config  # every run carries its own
    if jax.process_count() > 1:
        raise ConfigError(f"--mode=serve is for one process, and this is one of {jax.process_count()}; start it alone, with --distributed=off.")
    served = load(workdir)
    with Server(served, port) as server:
        print(f"http://127.0.0.1:{server.port} shows {workdir}, {len(served.runs)} run(s) with live samples, to this machine only; Ctrl-C ends it.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            served.end()
            print("Stopped.")


class Server(socketserver.ThreadingTCPServer):
    """A thread for every connection, at `port` of 127.0.0.1; connections beyond MOST_CONNECTIONS are closed. Raises ConfigError where the port is taken."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, MOST_CONNECTIONS

    def __init__(self, served: Served, port: int):
        self.served, self._free = served, threading.BoundedSemaphore(MOST_CONNECTIONS)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ConfigError(f"Port {port} cannot be listened to ({error.strerror}); give another one, --port=0 takes one that is free.") from error
        self.port = self.server_address[1]
        self.hosts = {f"{name}{end}" for name in ("localhost", "127.0.0.1") for end in (f":{self.port}", *[""] * (self.port == 80))}  # browsers leave out 80

    def process_request(self, request: socket.socket, client_address: tuple) -> None:
        """Starts the connection's thread."""
        if not self._free.acquire(blocking=False):
            return self.shutdown_request(request)
        try:
            super().process_request(request, client_address)
        except Exception:
            self._free.release()
            raise

    def process_request_thread(self, request: socket.socket, client_address: tuple) -> None:
        """The connection's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket.socket, client_address: tuple) -> None:
        """Logs what is no fault of a client."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            LOG.error("A connection ended in an error.", exc_info=True)


class _Bounded(io.RawIOBase):
    """What a client sends: MOST_BYTES, within READ_SECONDS, however slowly it drips."""

    def __init__(self, connection: socket.socket):
        self._connection, self._left, self._ends = connection, MOST_BYTES, time.monotonic() + READ_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        seconds = self._ends - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        if self._left <= 0:
            raise Refused(431, f"The headers have more than {MOST_BYTES:,} bytes; send fewer.")
        self._connection.settimeout(seconds)
        received = self._connection.recv_into(buffer)
        self._left -= received
        return received


class _Handler(BaseHTTPRequestHandler):
    """One request: HTTP/1.0 closes the connection after each."""

    server_version, sys_version, default_request_version = "causal_ctx", "", "HTTP/1.0"
    command, requestline, request_version = "", "", "HTTP/1.0"  # of what is refused before it is read

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Bounded(self.connection))

    def handle(self) -> None:
        try:
            super().handle()
        except Refused as refused:
            self._send(refused.answer())

    def finish(self) -> None:
        """What the client still sends is read for a moment: a connection closed before would take the answer back."""
        super().finish()
        ends = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER_SECONDS)
            while self.connection.recv(2**16) and time.monotonic() < ends:
                pass

    def do_GET(self) -> None:  # noqa: N802, the name that the base class calls
        try:
            given = [host.strip().lower() for host in self.headers.get_all("Host", [])]
            if len(given) != 1 or given[0] not in self.server.hosts:
                asked = shown(given[0]) if given else "nobody"
                raise Refused(403, f"The request is for {asked}, and this server is http://localhost:{self.server.port} alone.")
            found = answer(self.server.served, self.path)
        except Refused as refused:
            found = refused.answer()
        except Exception:
            LOG.error("A request ended in an error: %s", shown(self.path), exc_info=True)
            found = Refused(500, "The server met an error that it did not expect; what it was stands in its log.").answer()
        self._send(found)

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses, as all that is refused."""
        sentences = {501: "The server answers GET and HEAD alone.", 414: f"The request's first line is too long; its query may have {MOST_QUERY:,} characters."}
        sentence = sentences.get(code, f"The request cannot be read ({shown(message or str(code))}); send one of HTTP/1.0 or 1.1.")
        self._send(Refused(405 if code == 501 else code, sentence).answer())

    def _send(self, found: Answer) -> None:
        self.connection.settimeout(WRITE_SECONDS)
        self.request_version = "HTTP/1.0"  # HTTP/0.9 would go without headers
        self.send_response(found.status)
        headers = {"Content-Type": found.kind, "Content-Length": str(len(found.content)), "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
                   "Cross-Origin-Resource-Policy": "same-origin"}  # fmt: skip
        for name, value in (headers | {405: {"Allow": "GET, HEAD"}, 503: {"Retry-After": "2"}}.get(found.status, {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(found.content)

    def log_message(self, *_) -> None:
        """Requests are not logged."""
