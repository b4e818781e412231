"""Profiles of TLS: which certificate, key and rules a connection has, by listener and server name (Kamailio: tls.cfg)."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from polykemi.errors import ConfigError, ParseError
from polykemi.kemi.certificate import Certificate, shown_time
from polykemi.sip.flow import Listener
from polykemi.transport.tls import Credentials, told

log = logging.getLogger("polykemi.transport")

METHODS: Final = {  # Kamailio's names of what is still safe to speak (RFC 8996) -> least and greatest version
    "TLSv1.2": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
    "TLSv1.2+": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.MAXIMUM_SUPPORTED),
    "TLSv1.3": (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3),
    "TLSv1.3+": (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.MAXIMUM_SUPPORTED),
}
VERIFY: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "require": ssl.CERT_REQUIRED}
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_SOON: Final = 14 * 86400.0  # seconds before the end of a certificate
EXACT, WITH_SUBDOMAINS, SUBDOMAINS = 0, 1, 2  # server_name_mode


@dataclass(frozen=True, slots=True)
class TlsProfile:
    """How some connections are made, as in a section of Kamailio's tls.cfg.

    ``verify``: what is asked of the peer's certificate, a key of VERIFY. ``address``: the ``host:port`` that the profile is
    for, of the listener or of the server that is called; "" for any. ``server_name``: of the peer's SNI, or what is called.
    """

    name: str = ""  # of its table
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    crl: Path | None = None
    ciphers: str = ""
    method: str = "TLSv1.2+"
    verify: str = "none"
    address: str = ""
    server_name: str = ""
    server_name_mode: int = EXACT
    server_id: str = ""

    def is_named(self, name: str) -> bool:
        """Tell whether ``name`` (of SNI, lower case) is this profile's."""
        own = self.server_name
        if not own:
            return False
        if self.server_name_mode != SUBDOMAINS and name == own:
            return True
        return self.server_name_mode != EXACT and name.endswith("." + own)


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """All profiles: for connections that come in and for those that we make, the first of each being the default."""

    servers: tuple[TlsProfile, ...] = (TlsProfile(),)
    clients: tuple[TlsProfile, ...] = (TlsProfile("client", verify="require"),)

    def server(self, listener: Listener, name: str = "") -> TlsProfile:
        """Return the profile for a client of ``listener`` that asks for ``name`` ("": for none).

        A listener's own profile goes before one for any, one with that name before one without.
        """
        address = f"{listener.host}:{listener.port}"
        others = self.servers[1:]
        if name:
            for at in (address, ""):
                for one in others:
                    if one.address == at and one.is_named(name):
                        return one
        for one in others:
            if one.address == address and not one.server_name:
                return one
        return self.servers[0]

    def client(self, hosts: tuple[str, ...], port: int, server_id: str = "") -> TlsProfile:
        """Return the profile for a server with one of the names and addresses ``hosts``, or the one that ``server_id`` names."""
        others = self.clients[1:]
        for one in others:
            if server_id and one.server_id == server_id:
                return one
        addresses = [f"{host}:{port}" for host in hosts]
        return next((one for one in others if one.address in addresses), self.clients[0])


class BadProfile(ConfigError):
    """A profile that cannot be used: ``key`` of it, and why."""

    def __init__(self, profile: TlsProfile, key: str, cause: str) -> None:
        super().__init__(f"[{'.'.join(filter(None, ('tls', profile.name)))}] {key}: {cause}")
        self.profile, self.key, self.cause = profile, key, cause


class TlsContexts:
    """The credentials of each profile. Connections keep those that they began with."""

    def __init__(self, settings: TlsSettings) -> None:
        """Read what the files of the profiles hold now. Raise BadProfile."""
        self._settings = settings
        self._of = {one: for_clients(one) for one in settings.servers if one.certificate is not None}
        self._of.update({one: for_servers(one) for one in settings.clients})

    def take(self, other: TlsContexts) -> None:
        """Use the profiles and credentials of ``other`` for connections that come."""
        self._settings, self._of = other._settings, other._of

    def tell_of_ends(self, now: float) -> None:
        """Warn of certificates of ours that are over, or are soon."""
        for profile, end in self.ends():
            if end is None:
                log.warning("%s: its end cannot be read", profile.certificate)
            elif end.timestamp() < now + _SOON:
                word = "ended" if end.timestamp() < now else "ends"
                log.warning("%s %s on %s", profile.certificate, word, shown_time(end))

    def ends(self) -> Iterator[tuple[TlsProfile, datetime | None]]:
        """Give the profiles that have a certificate of ours, and when that ends; None when it cannot be read."""
        for profile, credentials in self._of.items():
            if credentials.certificate:
                try:
                    end = Certificate(credentials.certificate).not_after
                except ParseError:
                    end = None
                yield profile, end

    def server(self, listener: Listener, name: str) -> Credentials:
        """Return those for a client of ``listener`` that asks for ``name``."""
        return self._of[self._settings.server(listener, name)]

    def client(self, hosts: tuple[str, ...], port: int, server_id: str = "") -> tuple[Credentials, str]:
        """Return those for a server, and the name that it has to have, "" for none but those of ``hosts``."""
        profile = self._settings.client(hosts, port, server_id)
        return self._of[profile], profile.server_name


def for_clients(profile: TlsProfile) -> Credentials:
    """Return what connections that come in are made with. Raise BadProfile."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = _configure(context, profile)
    context.verify_mode = VERIFY[profile.verify]
    context.num_tickets = 1  # a phone has one connection
    return Credentials(context, certificate)


def for_servers(profile: TlsProfile) -> Credentials:
    """Return what connections are made with that we make. Raise BadProfile."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = profile.verify != "none"
    context.hostname_checks_common_name = False  # RFC 9525 section 2
    context.verify_mode = VERIFY[profile.verify]
    return Credentials(context, _configure(context, profile))


def _configure(context: ssl.SSLContext, profile: TlsProfile) -> bytes:
    """Set what servers and clients have alike; return our certificate."""
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.minimum_version, context.maximum_version = METHODS[profile.method]
    if profile.ciphers:
        try:
            context.set_ciphers(profile.ciphers)
        except ssl.SSLError:
            raise BadProfile(profile, "ciphers", f"no cipher is named by {profile.ciphers!r}") from None
    _load_trusted(context, profile)
    return b"" if profile.certificate is None else _load_certificate(context, profile, profile.certificate)


def _load_certificate(context: ssl.SSLContext, profile: TlsProfile, certificate: Path) -> bytes:
    key = profile.key or certificate
    at_key = "key" if profile.key else "certificate"
    text = _expect(profile, "certificate", certificate, _CERTIFICATE, "a certificate")
    _expect(profile, at_key, key, b"PRIVATE KEY-----", "a private key")

    def password() -> str:
        raise BadProfile(profile, at_key, f"{key} wants a password: expected a key without")

    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            raise BadProfile(profile, at_key, f"{key} is not the key of {certificate}") from None
        raise BadProfile(profile, "certificate", f"{certificate}, {key}: {told(error)}") from None
    except OSError as error:
        raise BadProfile(profile, "certificate", f"{certificate}, {key}: {error.strerror}") from None
    first, end = text[text.index(_CERTIFICATE) :].partition(_END)[:2]
    return ssl.PEM_cert_to_DER_cert(str(first + end, "ascii"))


def _load_trusted(context: ssl.SSLContext, profile: TlsProfile) -> None:
    """Load what peers' certificates are checked with: the CAs of ``ca``, for servers that we call the system's without."""
    if profile.verify == "none":
        return
    try:
        if profile.ca is not None:
            _expect(profile, "ca", profile.ca, _CERTIFICATE, "certificates")
            context.load_verify_locations(profile.ca)
        elif context.check_hostname:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if profile.crl is not None:
            _expect(profile, "crl", profile.crl, b"-----BEGIN X509 CRL-----", "a list of revoked certificates")
            context.load_verify_locations(profile.crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except ssl.SSLError as error:
        raise BadProfile(profile, "ca", told(error)) from None


def _expect(profile: TlsProfile, key: str, path: Path, mark: bytes, what: str) -> bytes:
    """Return the file. Raise BadProfile unless it is there and has ``mark``, as PEM (RFC 7468) writes ``what``."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadProfile(profile, key, f"{path}: {error.strerror}") from None
    if mark not in text:
        raise BadProfile(profile, key, f"{path}: expected {what} in PEM")
    return text
