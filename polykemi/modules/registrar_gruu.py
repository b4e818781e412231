"""GRUUs: URIs that reach one phone of a user (RFC 5627). Part of registrar.

A public GRUU is the address of record with the instance in the parameter ``gr``. A temporary one tells nobody whose it is:
its user part is the binding's address of record and id, encrypted and signed, so there is nothing to be stored for it. It
is another one in each 200, and holds as long as the phone registers with the same Call-ID.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from polykemi.errors import ParseError
from polykemi.modules.usrloc import plain_instance
from polykemi.sip.uri import Uri, unescape
from polykemi.storage.location import Binding

_PREFIX: Final = "tgruu."
_SIGNED: Final = 12  # octets of the signature
_IN_USER: Final = "-_.!~*'()&=+$,;?/"  # RFC 3261 section 25.1: user
_IN_PARAM: Final = "-_.!~*'()[]/:&+$"  # paramchar


class Gruus:
    """Makes GRUUs and finds the bindings that they stand for. ``secret``: the same for as long as bindings are kept."""

    def __init__(self, secret: bytes) -> None:
        self._sign_key = hmac.digest(secret, b"sign", "sha256")
        self._hide_key = hmac.digest(secret, b"hide", "sha256")

    def params(self, binding: Binding, aor: str, host: str) -> str:
        """Return ``;pub-gruu="...";temp-gruu="..."`` for a Contact of the 200; ``host`` for an ``aor`` that has none."""
        user, _, domain = aor.partition("@")
        address = f"{quote(user, _IN_USER, encoding='latin-1')}@{domain or host}"
        instance = quote(plain_instance(binding.instance), _IN_PARAM, encoding="latin-1")
        return f';pub-gruu="sip:{address};gr={instance}";temp-gruu="sip:{self._temporary(binding, aor)}@{host};gr"'

    def _temporary(self, binding: Binding, aor: str) -> str:
        told = int(binding.modified).to_bytes(5, "big") + f"{binding.ruid}\0{aor}".encode("latin-1")
        signature = self._signature(told, binding.call_id)
        return _PREFIX + urlsafe_b64encode(signature + self._hidden(told, signature)).decode("ascii").rstrip("=")

    def _signature(self, told: bytes, call_id: str) -> bytes:
        return hmac.digest(self._sign_key, told + b"\0" + call_id.encode("latin-1"), "sha256")[:_SIGNED]

    def _hidden(self, data: bytes, signature: bytes) -> bytes:
        """Encrypt or decrypt: the signature is all that makes the key stream differ (as in RFC 5297)."""
        stream = b""
        while len(stream) < len(data):
            stream += hmac.digest(self._hide_key, signature + len(stream).to_bytes(4, "big"), "sha256")
        size = len(data)
        return (int.from_bytes(data, "big") ^ int.from_bytes(stream[:size], "big")).to_bytes(size, "big")

    def find(self, uri: Uri, bindings_of: Callable[[str], list[Binding]], aor: str) -> list[Binding]:
        """Return the bindings of the phone that ``uri``, which has ``gr``, stands for; an empty list for none.

        ``aor``: the address of record of a public one. Raise ParseError for what was never a temporary one.
        """
        instance = uri.param("gr")
        if instance:
            wanted = unescape(instance)
            return [b for b in bindings_of(aor) if b.instance and plain_instance(b.instance) == wanted]
        text = uri.user.removeprefix(_PREFIX)
        try:
            octets = urlsafe_b64decode(text + "=" * (-len(text) % 4)) if text != uri.user else b""
        except (binascii.Error, ValueError):
            octets = b""
        if len(octets) <= _SIGNED:
            raise ParseError("Bad GRUU")
        signature, hidden = octets[:_SIGNED], octets[_SIGNED:]
        told = self._hidden(hidden, signature)
        ruid, _, aor = told[5:].decode("latin-1").partition("\0")
        for binding in bindings_of(aor) if aor else ():
            if binding.ruid == ruid and hmac.compare_digest(self._signature(told, binding.call_id), signature):
                return [binding]
        return []
