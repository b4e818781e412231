"""Our own Via of forwarded requests, as a script wants it to be (KSR: add_local_rport, set_advertised_..., corex.via_...)."""

from __future__ import annotations

from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.sip.flow import Listener, bracketed

VIA: Final = "local_via"  # ctx.cache: a LocalVia
ONWARD: Final = "onward"  # ctx.cache: the kind of flow that the request goes on with, OpenFlow or LastFlow


class LocalVia:
    """What is to be in our Via instead of, or besides, the address of the listener and the branch."""

    __slots__ = ("address", "fields", "params", "port", "rport", "server_id")

    def __init__(self) -> None:
        self.address = ""  # "": that of the listener
        self.port = ""
        self.rport = False
        self.server_id = 0  # 0: none
        self.params = ""  # name of an XAVP, the fields of which become parameters
        self.fields = ""  # name of an XAVP with the fields address and port

    def sent_by(self, ctx: RouteContext, listener: Listener) -> str:
        """Return host and port as the Via has them."""
        address, port = self.address, self.port
        item = (ctx.shared.xavps.get(self.fields) or [{}])[0] if self.fields else {}
        if isinstance(item.get("address", [0])[0], str):
            address = item["address"][0]
        if isinstance(item.get("port", [0])[0], str):
            port = item["port"][0]
        if not address and not port:
            return listener.sent_by
        own_address, own_port = listener.advertised
        if not address:
            address = bracketed(own_address)
        if not port and own_port != 5060:
            port = str(own_port)
        return f"{address}:{port}" if port else address

    def value(self, ctx: RouteContext, listener: Listener, branch: str) -> str:
        """Return the value of our Via with ``branch``."""
        out = f"SIP/2.0/{listener.proto.upper()} {self.sent_by(ctx, listener)};branch={branch}"
        if self.rport:
            out += ";rport"
        if self.server_id:
            out += f";srvid={self.server_id}"
        items = ctx.shared.xavps.get(self.params) if self.params else None
        for name, values in (items[0] if items else {}).items():
            value = values[0]
            if isinstance(value, (int, str)):
                out += f";{name}" if value == "" else f";{name}={value}"
        return out


def wish_for(ctx: RouteContext) -> LocalVia | None:
    """Return what the script wants of our Via, None when it is as usual."""
    wish: LocalVia | None = ctx.cache.get(VIA)
    return wish


def wishing(ctx: RouteContext) -> LocalVia:
    """Return what the script wants of our Via, to be changed."""
    wish: LocalVia | None = ctx.cache.get(VIA)
    if wish is None:
        wish = ctx.cache[VIA] = LocalVia()
    return wish


def inherit(block: RouteContext, ctx: RouteContext) -> None:
    """Let a branch route start from what the request route wants."""
    wish = wish_for(ctx)
    if wish is not None:
        own = block.cache[VIA] = LocalVia()
        for name in LocalVia.__slots__:
            setattr(own, name, getattr(wish, name))
