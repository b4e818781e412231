"""$ulc: the contacts that registrar.reg_fetch_contacts has fetched (Kamailio: registrar, regpv). Part of registrar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor, Factory
from polykemi.storage.location import Binding

# attribute -> how it is read of a contact
_FIELDS: Final[dict[str, Callable[[Binding], Xval]]] = {
    "addr": lambda b: b.uri,
    "path": lambda b: b.path,
    "received": lambda b: b.received,
    "expires": lambda b: int(b.expires),
    "callid": lambda b: b.call_id,
    "q": lambda b: b.q,
    "cseq": lambda b: b.cseq,
    "flags": lambda b: b.flags,
    "cflags": lambda b: b.bflags,
    "user_agent": lambda b: b.user_agent,
    "socket": lambda b: b.listener,
    "modified": lambda b: int(b.modified),
    "methods": lambda b: -1 if b.methods == 0xFFFFFFFF else b.methods,
    "ruid": lambda b: b.ruid,
    "regid": lambda b: b.reg_id,
    "instance": lambda b: b.instance or None,
    "conid": lambda b: None,  # the TCP connection: null for UDP
}
_OF_AOR: Final = ("aor", "domain", "count")


class Profile(NamedTuple):
    """What one $ulc profile holds: ``domain`` is the location table."""

    domain: str
    aor: str
    contacts: list[Binding]

    def get(self, attr: str, index: int) -> Xval:
        """Return an attribute of contact ``index``, null when there is none."""
        if attr == "aor":
            return self.aor
        if attr == "domain":
            return self.domain
        if attr == "count":
            return len(self.contacts)
        field = _FIELDS.get(attr)
        return field(self.contacts[index]) if field is not None and 0 <= index < len(self.contacts) else None


def ulc_class(profile: Callable[[RouteContext, str], Profile | None]) -> Factory:
    """Return the class of $ulc(name=>attr) and $(ulc(name=>attr)[index]); ``profile`` finds a profile by name."""

    def factory(inner: str | None, index: str | None, _: object) -> Accessor:
        name, arrow, attr = (inner or "").partition("=>")
        name, attr = name.strip(" "), attr.strip(" ")
        if not arrow or not name or (attr not in _FIELDS and attr not in _OF_AOR):
            raise ValueError("expected $ulc(profile=>attribute)")
        if index is not None and not index.isdecimal():
            raise ValueError("the index of $ulc is a number")
        at = int(index) if index is not None else 0

        def get(ctx: RouteContext) -> Xval:
            found = profile(ctx, name)
            return found.get(attr, at) if found is not None else None

        return Accessor(get)

    return factory
