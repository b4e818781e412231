"""X.509 certificates (RFC 5280) as far as scripts ask for them: names, serial number, validity. Read from DER (X.690)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from polykemi.errors import ParseError

_ATTRIBUTES: Final = {  # OpenSSL's short names of what stands in names -> object identifier
    "C": b"\x55\x04\x06",
    "ST": b"\x55\x04\x08",
    "L": b"\x55\x04\x07",
    "O": b"\x55\x04\x0a",
    "OU": b"\x55\x04\x0b",
    "CN": b"\x55\x04\x03",
    "UID": b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x01",
    "emailAddress": b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01",
    "DC": b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19",
    "serialNumber": b"\x55\x04\x05",
}
_SHORT: Final = {oid: name for name, oid in _ATTRIBUTES.items()}
_SAN: Final = b"\x55\x1d\x11"  # subjectAltName
_KINDS: Final = {0x81: "email", 0x82: "hostname", 0x86: "uri", 0x87: "ip"}  # context-specific tags of GeneralName
_CODECS: Final = {0x0C: "utf-8", 0x1E: "utf-16-be", 0x1C: "utf-32-be"}  # of the string types that are not Latin-1
_EXTENSIONS, _VERSION, _UTC_TIME, _OID, _OCTETS = 0xA3, 0xA0, 0x17, 0x06, 0x04

Name = list[tuple[str, str]]  # what stands in it, in order: ("CN", "alice")


class Certificate:
    """One certificate; texts are octets."""

    __slots__ = ("alternatives", "der", "issuer", "not_after", "not_before", "serial", "subject", "version")

    def __init__(self, der: bytes) -> None:
        """Read it. Raise ParseError."""
        self.der = der
        self.alternatives: dict[str, list[str]] = {"email": [], "hostname": [], "uri": [], "ip": []}
        try:
            self._read(der)
        except (IndexError, ValueError, LookupError) as error:
            raise ParseError(f"no certificate: {error}") from None

    def _read(self, der: bytes) -> None:
        fields = list(_items(_first(_first(der))))
        self.version = 1
        if fields[0][0] == _VERSION:
            self.version = 1 + int.from_bytes(_first(fields.pop(0)[1]), "big")
        self.serial = int.from_bytes(fields[0][1], "big", signed=True)
        self.issuer, self.subject = _name(fields[2][1]), _name(fields[4][1])
        self.not_before, self.not_after = (_time(tag, text) for tag, text in _items(fields[3][1]))
        for tag, content in fields[6:]:
            if tag == _EXTENSIONS:
                self._read_extensions(_first(content))

    def _read_extensions(self, content: bytes) -> None:
        for _, extension in _items(content):
            parts = dict(_items(extension))
            if parts[_OID] == _SAN:
                for tag, value in _items(_first(parts[_OCTETS])):
                    kind = _KINDS.get(tag)
                    if kind is not None:
                        self.alternatives[kind].append(
                            str(ip_address(value)) if kind == "ip" else value.decode("latin-1")
                        )

    @property
    def pem(self) -> str:
        """The certificate in PEM (RFC 7468)."""
        text = b64encode(self.der).decode()
        lines = [text[i : i + 64] for i in range(0, len(text), 64)]
        return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def part_of(name: Name, attribute: str) -> str | None:
    """Return the first value of ``attribute`` (CN, O, ...), None when it is not there."""
    return next((value for key, value in name if key == attribute), None)


def one_line(name: Name) -> str:
    """Return a name as OpenSSL writes it into one line: ``/C=DE/O=Example/CN=sip.example.org``."""
    out = ""
    for key, value in name:
        out += f"/{key}="
        out += "".join(c if " " <= c <= "~" else f"\\x{ord(c):02X}" for c in value)
    return out


def shown_time(when: datetime) -> str:
    """Return a time as OpenSSL writes it: ``Dec  9 08:43:52 2026 GMT``."""
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    return f"{months[when.month - 1]} {when.day:2} {when:%H:%M:%S} {when.year} GMT"


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give tag and content of the values that stand one behind the other. Raise ValueError for what is cut off."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ValueError("it is cut off")
        yield tag, data[at : at + length]
        at += length


def _first(data: bytes) -> bytes:
    """Return the content of the first value. Raise ValueError."""
    for _, content in _items(data):
        return content
    raise ValueError("there is nothing")


def _name(content: bytes) -> Name:
    name: Name = []
    for _, several in _items(content):
        for _, pair in _items(several):
            (_, oid), (tag, value) = _items(pair)
            text = value.decode(_CODECS[tag]).encode().decode("latin-1") if tag in _CODECS else value.decode("latin-1")
            name.append((_SHORT.get(oid) or _dotted(oid), text))
    return name


def _dotted(oid: bytes) -> str:
    numbers, number = [oid[0] // 40, oid[0] % 40], 0
    for octet in oid[1:]:
        number = number << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(number)
            number = 0
    return ".".join(map(str, numbers))


def _time(tag: int, text: bytes) -> datetime:
    """Return a UTCTime or a GeneralizedTime (RFC 5280 section 4.1.2.5)."""
    digits = text.decode("ascii")
    if tag == _UTC_TIME:
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
