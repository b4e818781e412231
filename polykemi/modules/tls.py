"""tls: what scripts and operators see of TLS connections (Kamailio: tls). Profiles stand in the table [tls], not here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from polykemi.errors import ConfigError, ParseError, RpcError
from polykemi.kemi.certificate import Certificate, one_line, part_of, shown_time
from polykemi.kemi.context import RouteContext
from polykemi.kemi.network import TlsState
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module
from polykemi.pv.accessor import Accessor, Factory
from polykemi.pv.classes.factories import indexed, keyed, plain
from polykemi.sip.flow import SECURE

log = logging.getLogger("polykemi.script")

_MOST_LISTED: Final = 1000  # connections in the answer of tls.list

_PARTS: Final = {  # of subject and issuer: variable -> attribute
    "cn": "CN",
    "country": "C",
    "locality": "L",
    "organization": "O",
    "state": "ST",
    "unit": "OU",
}
_ALTERNATIVES: Final = ("email", "hostname", "ip", "uri")
_SAN_KINDS: Final = {"DNS": "hostname", "URI": "uri", "EMAIL": "email", "IP": "ip"}

OfState = Callable[[TlsState], Xval]
OfCertificate = Callable[[Certificate], Xval]

# variable without tls_ -> what it is of a connection. As Kamailio's, numbers are texts
_OF_STATE: Final[Mapping[str, OfState]] = {
    "version": lambda state: state.version,
    "cipher_info": lambda state: state.cipher,
    "cipher_bits": lambda state: str(state.bits),
    "description": lambda state: state.description,
    "peer_server_name": lambda state: state.server_name or None,
    "peer_verified": lambda state: str(int(state.is_verified)),
    "peer_revoked": lambda state: "0",  # whoever is in the CRL has no connection
}
_OF_CERTIFICATE: Final[Mapping[str, OfCertificate]] = {  # behind my_ and peer_
    "version": lambda one: str(one.version - 1),  # as it is encoded: 2 for version 3
    "serial": lambda one: str(one.serial),
    "subject": lambda one: one_line(one.subject),
    "issuer": lambda one: one_line(one.issuer),
    "notBefore": lambda one: shown_time(one.not_before),
    "notAfter": lambda one: shown_time(one.not_after),
    "raw_cert": lambda one: one.pem,
    "urlencoded_cert": lambda one: _url_encoded(one.pem),
}


class TlsModule(Module):
    """Connections over TLS."""

    name = "tls"

    # ---- variables
    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $tls_... and $tls(key)."""
        classes = {f"tls_{name}": plain(self._of_state(get)) for name, get in _OF_STATE.items()}
        for side in ("my", "peer"):
            for name, get in _certificate_parts():
                classes[f"tls_{side}_{name}"] = plain(self._of_certificate(side, get))
            for kind in _ALTERNATIVES:
                classes[f"tls_{side}_san_{kind}"] = self._alternatives(side, kind)
            counts = {kind: self._count(side, of) for kind, of in _SAN_KINDS.items()}
            classes[f"tls_{side}_san_count"] = keyed(counts)
        classes["tls_peer_expired"] = plain(self._is_expired)
        classes["tls_peer_selfsigned"] = plain(self._is_selfsigned)
        lines = {}
        for letter, side in (("m", "my"), ("p", "peer")):
            for name in ("subject", "issuer"):
                lines[f"{letter}_{name}_line"] = self._of_certificate(side, _OF_CERTIFICATE[name])
        classes["tls"] = keyed(lines)
        return classes

    def _state(self, ctx: RouteContext) -> TlsState | None:
        return self.services.tls.tls_state(ctx.flow) if ctx.flow.listener.proto in SECURE else None

    def _certificate(self, ctx: RouteContext, side: str) -> Certificate | None:
        state = self._state(ctx)
        der = b"" if state is None else state.own if side == "my" else state.peer
        return _read(der) if der else None

    def _of_state(self, get: OfState) -> Callable[[RouteContext], Xval]:
        def value(ctx: RouteContext) -> Xval:
            state = self._state(ctx)
            return None if state is None else get(state)

        return value

    def _of_certificate(self, side: str, get: OfCertificate) -> Callable[[RouteContext], Xval]:
        def value(ctx: RouteContext) -> Xval:
            certificate = self._certificate(ctx, side)
            return None if certificate is None else get(certificate)

        return value

    def _alternatives(self, side: str, kind: str) -> Factory:
        def values(ctx: RouteContext) -> list[str]:
            certificate = self._certificate(ctx, side)
            return [] if certificate is None else certificate.alternatives[kind]

        def factory(inner: str | None, index: str | None, variables: Any) -> Accessor:
            if inner is not None:
                raise ValueError("it takes no name")
            return Accessor(indexed(values, index, variables))

        return factory

    def _count(self, side: str, kind: str) -> Callable[[RouteContext], Xval]:
        def value(ctx: RouteContext) -> Xval:
            certificate = self._certificate(ctx, side)
            return None if certificate is None else len(certificate.alternatives[kind])

        return value

    def _is_expired(self, ctx: RouteContext) -> Xval:
        """Return 1 when the peer's certificate is over, as it can be in the middle of a connection; else 0."""
        if self._state(ctx) is None:
            return None
        certificate = self._certificate(ctx, "peer")
        return str(int(certificate is not None and certificate.not_after.timestamp() < ctx.now))

    def _is_selfsigned(self, ctx: RouteContext) -> Xval:
        if self._state(ctx) is None:
            return None
        certificate = self._certificate(ctx, "peer")
        return str(int(certificate is not None and certificate.issuer == certificate.subject))

    # ---- functions
    @export()
    def is_peer_verified(self, ctx: RouteContext) -> int:
        """Tell whether the peer has a certificate, and one that was checked. Answers 1, or -1: it has not, or there is no TLS."""
        state = self._state(ctx)
        return 1 if state is not None and state.is_verified else -1

    @export()
    def set_connect_server_id(self, ctx: RouteContext, srvid: str) -> int:
        """Make connections from now on with the client profile that has ``server_id = srvid``; "": with that of their address.

        It holds for all of the server until it is set again. Answers 1.
        """
        self.services.tls.use_server_id(srvid)
        return 1

    @export()
    def cget(self, ctx: RouteContext, aname: str) -> Xval:
        """Return what the variable ``aname`` (``tls_version``, ``tls_cipher_info``, ...) holds; "" for what is none."""
        get = _OF_STATE.get(aname.removeprefix("tls_")) if aname.startswith("tls_") else None
        state = self._state(ctx) if get is not None else None
        return "" if get is None or state is None else get(state) or ""

    # ---- commands
    @rpc("tls.reload")
    def reload(self) -> str:
        """Read [tls] and its certificates anew. Connections that there are keep theirs; after a mistake all stays as it was."""
        try:
            use = self.services.tls.reread_tls()
            if use is None:
                raise ConfigError("there is no listener for TLS")
            use()
        except ConfigError as error:
            logging.getLogger("polykemi.tls").error("not reloaded: %s", error)
            raise RpcError(500, str(error)) from None
        return "Ok. TLS configuration reloaded."

    @rpc("tls.info")
    def info(self, *, now: float) -> dict[str, Any]:
        """Return how many connections there are over TLS and may be, and how many octets wait in them."""
        connections = self.services.tls.tls_connections(now)
        return {
            "max_connections": self.services.tls.most_connections(),
            "opened_connections": len(connections),
            "clear_text_write_queued_bytes": sum(one.unsent for one in connections),
        }

    @rpc("tls.list")
    def list(self, *, now: float) -> list[dict[str, Any]]:
        """Return the connections over TLS, up to 1,000: whence, whither, how many seconds they are kept without a message."""
        return [
            {
                "id": one.ident,
                "timeout": one.left,
                "src_ip": one.flow.host,
                "src_port": one.flow.port,
                "dst_ip": one.flow.listener.host,
                "dst_port": one.flow.listener.port,
                "cipher": "unknown" if one.state is None else one.state.description,
                "ct_wq_size": one.unsent,
                "state": "established" if one.state is not None else "accept" if one.is_accepted else "connect",
            }
            for one in self.services.tls.tls_connections(now)[:_MOST_LISTED]
        ]


def _certificate_parts() -> list[tuple[str, OfCertificate]]:
    """Return all variables that a certificate gives, without their beginnings."""
    parts = list(_OF_CERTIFICATE.items())
    for variable, attribute in _PARTS.items():
        parts.append((f"subject_{variable}", _of_subject(attribute)))
        parts.append((f"issuer_{variable}", _of_issuer(attribute)))
    return [*parts, ("subject_uid", _of_subject("UID"))]


def _of_subject(attribute: str) -> OfCertificate:
    return lambda one: part_of(one.subject, attribute)


def _of_issuer(attribute: str) -> OfCertificate:
    return lambda one: part_of(one.issuer, attribute)


@lru_cache(256)
def _read(der: bytes) -> Certificate | None:
    try:
        return Certificate(der)
    except ParseError as error:
        log.error("tls: %s", error)
        return None


def _url_encoded(text: str) -> str:
    """Return ``text`` with the escapes of URIs, in lower case."""
    return "".join(c if c.isalnum() or c in "-_.~" else f"%{ord(c):02x}" for c in text)
