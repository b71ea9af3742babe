"""What Ray is told when it starts or is joined, so that it answers at once, or one line says why not. Nothing here imports ray."""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aotsearch.errors import InputError, RunError

PATIENCE = 5.0  # seconds for which a machine may take to answer; Ray itself waits for a minute and more
TOKEN = "where it asks for a token, set RAY_AUTH_MODE=token here, too, and put the token into RAY_AUTH_TOKEN or ~/.ray/auth_token"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # an empty frame of HTTP/2: three bytes of length, one of type
SOCKET = 107 if sys.platform == "linux" else 103  # bytes that the path of a socket may have
BELOW = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.00")  # what Ray adds to its folder


def required_answer(address: str) -> None:
    """
    Args:
        address: Of a cluster: `auto`, `HOST:PORT` or `ray://HOST:PORT`.

    Raises:
        InputError: it is none.
        RunError: nothing answers there.
    """
    if address in ("auto", "local"):
        return
    found = re.fullmatch(r"(?:ray://)?\[?(?P<host>[^/\[\]]+?)\]?:(?P<port>\d{1,5})(?:/.*)?", address)
    if not found or int(found["port"]) > 65535:
        raise InputError(f"--address takes auto, HOST:PORT or ray://HOST:PORT, not {address!r}")
    try:
        with socket.create_connection((found["host"], int(found["port"])), timeout=PATIENCE) as reached:
            why = (
                ""
                if os.environ.get("RAY_USE_TLS", "0") == "1" or _speaks_grpc(reached)
                else "what answers there does not speak as Ray does"
            )
    except OSError as e:
        why = str(e.strerror or e)
    if why:
        remedy = "look whether it runs (`ray status` there), or leave --address out to start one here"
        raise RunError(f"no Ray cluster answers at {address}: {why}; {remedy}") from None


def _speaks_grpc(reached: socket.socket) -> bool:
    """Whether settings of HTTP/2, by which gRPC begins, are answered by settings."""
    reached.settimeout(PATIENCE)
    reached.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS)
    head = b""
    while len(head) < len(SETTINGS):
        if not (more := reached.recv(len(SETTINGS) - len(head))):
            return False
        head += more
    return head[3:4] == SETTINGS[3:4]


def reach(node: Any) -> Callable[[], str] | None:
    """Says what of a cluster cannot be reached, in words: its head, or the raylet of this machine; empty where both can.

    Args:
        node: Ray's own description of how this process is connected; None where it is through another.
    """
    if node is None:
        return None
    host, _, port = node.gcs_address.rpartition(":")
    socket_of_raylet = str(node.raylet_socket_name)
    here = _listens(socket_of_raylet)

    def look() -> str:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
        except OSError as e:
            return f"the head of the Ray cluster, {node.gcs_address}, cannot be reached ({e.strerror or e})"
        return "the node of the Ray cluster on this machine is gone" if here and not _listens(socket_of_raylet) else ""

    return look


def _listens(path: str) -> bool:
    """Whether a process of this machine has a socket there, as Linux tells without disturbing it."""
    try:
        return path in Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def temporary() -> str | None:
    """The folder for Ray's files, where that of the environment is not there or too long for a path of a socket; else None."""
    asked = os.environ.get("RAY_TMPDIR") or (os.environ.get("TMPDIR") if sys.platform == "linux" else None)
    if not asked or (Path(asked).is_dir() and _short(asked)):
        return None
    place = tempfile.gettempdir()  # the first that is there and can be written
    return str(Path(place if _short(place) else "/tmp") / "ray")  # where Ray has it by default  # nosec B108


def token() -> dict[str, str]:
    """Variables by which the processes of a Ray that is started here know one another, where it could not write its own to the home."""
    if {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return {}
    kept = Path.home() / ".ray" / "auth_token"
    above = next((place for place in (kept, *kept.parents) if os.path.lexists(place)), kept)
    return {} if os.access(above, os.R_OK if above == kept else os.W_OK) else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def joining() -> dict[str, str]:
    """Variables by which Ray joins a cluster that runs, or says soon that it cannot."""
    return {"RAY_NUM_REDIS_GET_RETRIES": "3"}  # one a second, of the head, whatever that keeps its tables in


def _short(folder: str) -> bool:
    return len(os.fsencode(folder)) + BELOW <= SOCKET


def job(plain: type[Any]) -> Any:
    """What Ray is told of the driver: of its working folder, which workers would search before all else, only where the driver searches it,
    too. A `numpy.py` or a `random.py` there is not what a library means.

    Args:
        plain: Ray's `JobConfig`.
    """
    if not {"", os.getcwd()}.isdisjoint(sys.path):  # noqa: PTH109 (as text)
        return plain()

    class Elsewhere(plain):  # type: ignore[misc]
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # then Ray adds neither that nor the folder of the script

    return Elsewhere()
