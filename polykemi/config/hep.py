"""The table [hep]: where messages are mirrored to."""

from __future__ import annotations

import ssl
from typing import Final

from polykemi.config.addresses import host_and_port
from polykemi.config.table import Table
from polykemi.kemi.binding import from_octets
from polykemi.sip.grammar import is_token
from polykemi.transport.mirror import HepSettings

_KEYS: Final = ("server", "capture_id", "auth_key", "node", "methods", "sample", "ca")
_SERVER: Final = "expected udp:HOST:PORT (or tcp:, tls:)"
_PORT: Final = 9060  # Homer's
_LONGEST: Final = 255  # octets of auth_key and node


def hep(table: Table) -> HepSettings | None:
    """Read [hep]; None when there is no such table."""
    table.only(_KEYS)
    if not table.content:
        return None
    if "server" not in table.content:
        table.fail("", "expected a server")
    proto, host, port = _server(table)
    capture_id: int = table.get("capture_id", int, 1)
    if not 0 <= capture_id < 1 << 32:
        table.fail("capture_id", f"expected 0 to {(1 << 32) - 1}, got {capture_id}")
    sample: float = table.get("sample", float, 1.0)
    if not 0 < sample <= 1:
        table.fail("sample", f"expected more than 0 and at most 1, got {sample:g}")
    methods: list[str] = table.get("methods", list[str], [])
    for one in methods:
        if not is_token(one):
            table.fail("methods", f"expected methods such as INVITE, got {from_octets(one)!r}")
    if "ca" in table.content and proto != "tls":
        table.fail("ca", "expected a server with tls:")
    ca = table.relative("ca")
    if ca is not None:
        try:
            ssl.create_default_context(cafile=str(ca))
        except FileNotFoundError:
            table.fail("ca", f"{ca}: no such file")
        except OSError:
            table.fail("ca", f"{ca}: expected certificates (PEM)")
    return HepSettings(
        proto,
        host,
        port,
        capture_id=capture_id,
        auth_key=_short(table, "auth_key"),
        node=_short(table, "node"),
        methods=frozenset(one.upper() for one in methods),
        sample=sample,
        ca=ca,
    )


def _server(table: Table) -> tuple[str, str, int]:
    text = from_octets(table.get("server", str))
    proto, colon, rest = text.partition(":")
    if not colon or proto.lower() not in ("udp", "tcp", "tls"):
        table.fail("server", f"{_SERVER}, got {text!r}")
    try:
        host, port = host_and_port(rest, _PORT, f"{_SERVER}, got {text!r}")
    except ValueError as error:
        table.fail("server", str(error))
    if port == 0:
        table.fail("server", "expected a port from 1 to 65535, got '0'")
    return proto.lower(), host, port


def _short(table: Table, key: str) -> str:
    if not isinstance(table.content.get(key, ""), str):
        table.fail(key, "expected a text")  # and not what came: it may be the key
    text: str = table.get(key, str, "")
    if len(text) > _LONGEST:
        table.fail(key, f"expected at most {_LONGEST} octets, got {len(text)}")
    return text
