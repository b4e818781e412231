"""The tables of the transports: [udp], [tcp], [tls], [dns], [overload]."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from polykemi.config.addresses import address_of
from polykemi.config.table import Table, filled, one_of, read, shown, size
from polykemi.overload import OverloadLimits
from polykemi.sip.flow import Listener, UdpSettings
from polykemi.transport.limits import StreamLimits
from polykemi.transport.name_servers import parse_server
from polykemi.transport.resolver import DnsSettings
from polykemi.transport.tls_profiles import METHODS, VERIFY, BadProfile, TlsContexts, TlsProfile, TlsSettings


def udp(table: Table) -> UdpSettings:
    """Read [udp]."""
    return filled(UdpSettings, table)


def tcp(table: Table) -> StreamLimits:
    """Read [tcp]."""
    return filled(StreamLimits, table)


def dns(table: Table) -> DnsSettings:
    """Read [dns]."""
    return filled(DnsSettings, table, nameservers=table.texts("nameservers", parse_server))


def overload(table: Table) -> OverloadLimits:
    """Read [overload]."""
    return filled(OverloadLimits, table, **({"memory": size(table, "memory")} if "memory" in table.content else {}))


_TLS_FILES: Final = ("certificate", "key", "ca", "crl")
_TLS_KEYS: Final = (*_TLS_FILES, "ciphers", "method")


_OF_SERVERS: Final = ("verify_client", "server_name", "server_name_mode")
_OF_CLIENTS: Final = ("verify_certificate", "server_name", "server_id")


def load_tls(path: Path | None, listeners: Iterable[Listener]) -> TlsSettings:
    """Read the table [tls] of ``path`` anew, and try the files that it names. Raise ConfigError."""
    return tls(Table(path, (), read(path) if path else {}).table("tls"), listeners)


def tls(table: Table, listeners: Iterable[Listener]) -> TlsSettings:
    """Return the profiles of TLS; those that ``listeners`` need are tried."""
    table.only((*_TLS_KEYS, *_OF_SERVERS, "server", "client"))
    places = {"": table}
    servers, clients = table.table("server"), table.table("client")
    default = _tls_profile(table, TlsProfile())
    profiles = [default]
    for name in servers.content:
        place = places[f"server.{name}"] = servers.table(name)
        place.only((*_TLS_KEYS, *_OF_SERVERS))
        profiles.append(_tls_profile(place, replace(default, name=f"server.{name}", address=address_of(name) or "")))
        if not (profiles[-1].server_name or profiles[-1].address):
            place.fail("", f"expected a server_name, or a table named HOST:PORT, got {name}")
    clients.only(
        (*_TLS_KEYS, *_OF_CLIENTS, *(key for key, value in clients.content.items() if isinstance(value, dict)))
    )
    places["client"] = clients
    called = [_tls_profile(clients, TlsProfile("client", verify="require"))]
    for name, value in clients.content.items():
        if isinstance(value, dict):
            place = places[f"client.{name}"] = clients.table(name)
            place.only((*_TLS_KEYS, *_OF_CLIENTS))
            called.append(
                _tls_profile(place, replace(called[0], name=f"client.{name}", address=address_of(name) or ""))
            )
            if not (called[-1].server_id or called[-1].address):
                place.fail("", f"expected a server_id, or a table named HOST:PORT, got {name}")
    settings = TlsSettings(tuple(profiles), tuple(called))
    needed = [one for one in listeners if one.proto == "tls"]
    for profile in profiles[1:] if needed else ():
        if profile.certificate is None:
            places[profile.name].fail("", "expected a certificate, here or in [tls]")
    for one in needed:
        if settings.server(one).certificate is None:
            table.fail("certificate", f"expected a file in PEM, for the listener {one}")
    if needed:
        try:
            TlsContexts(settings)
        except BadProfile as error:
            places[error.profile.name].fail(error.key, error.cause)
    return settings


def _tls_profile(table: Table, base: TlsProfile) -> TlsProfile:
    """Return the profile of ``table``; what is not in it is that of ``base``, but a certificate comes with its key."""
    values: dict[str, Any] = {key: path for key in _TLS_FILES if (path := table.relative(key)) is not None}
    if "certificate" in values:
        values.setdefault("key", None)
    elif "key" in values and base.certificate is None:
        table.fail("key", "expected a certificate beside it")
    for key in ("ciphers", "method", "server_name", "server_id"):
        values[key] = table.get(key, str, getattr(base, key))
    values["server_name"] = values["server_name"].lower()
    if values["method"] not in METHODS:
        table.fail("method", f"expected {one_of(METHODS)}, got {shown(values['method'])}")
    values["server_name_mode"] = table.get("server_name_mode", int, base.server_name_mode)
    if not 0 <= values["server_name_mode"] <= 2:
        table.fail(
            "server_name_mode",
            f"expected 0 (the name), 1 (subdomains too) or 2 (these alone), got {values['server_name_mode']}",
        )
    values["verify"] = table.get("verify_client", str, base.verify)
    if values["verify"] not in VERIFY:
        table.fail("verify_client", f"expected {one_of(VERIFY)}, got {shown(values['verify'])}")
    if "verify_certificate" in table.content:
        values["verify"] = "require" if table.get("verify_certificate", bool) else "none"
    profile = replace(base, **values)
    if "verify_client" in table.content and profile.verify != "none" and profile.ca is None:
        table.fail("verify_client", "expected a ca beside it: whose certificates are taken")
    return profile
