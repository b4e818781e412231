"""``[control]``: how a running server is asked, besides by the socket in its data directory."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from polykemi.config.addresses import host_and_port
from polykemi.config.table import Table
from polykemi.kemi.binding import from_octets

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,256}=*", re.ASCII)  # RFC 6750 section 2.1


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Where JSON-RPC requests are taken."""

    socket: Path | None = None  # in place of control.sock in the data directory
    datagram: Path | None = None  # a Unix datagram socket, as kamcli asks
    http: tuple[str, int] | None = None  # host and port
    token: str = ""  # the bearer token of requests over HTTP; "": none is needed


def control(table: Table) -> ControlSettings:
    """Read the table. Raise ConfigError."""
    table.only(("socket", "datagram", "http", "token"))
    token: str = table.get("token", str, "")
    if "token" in table.content and not _TOKEN.fullmatch(token):  # the error does not tell it: it goes into logs
        table.fail("token", "expected 16 to 256 letters, digits and -._~+/ (openssl rand -hex 32 makes some)")
    http = listen_address(table, "http")
    if http is not None and not token and not _is_loopback(http[0]):
        table.fail("http", f"whoever reaches {http[0]} could command the server: set a token, or listen on 127.0.0.1")
    if token and http is None:
        table.fail("token", "expected http = HOST:PORT beside it")
    socket, datagram = table.relative("socket"), table.relative("datagram")
    if datagram is not None and datagram == socket:
        table.fail("datagram", "expected another path than that of socket")
    return ControlSettings(socket, datagram, http, token)


def listen_address(table: Table, key: str) -> tuple[str, int] | None:
    """Return host and port of ``key``, None when it is not there. Raise ConfigError."""
    address: str | None = table.get(key, str)
    if address is None:
        return None
    address = from_octets(address)
    try:
        return host_and_port(address, None, f"expected HOST:PORT, got {address!r}")
    except ValueError as error:
        table.fail(key, str(error))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
