"""Where a message comes from and goes to: a listener of ours and an address of the peer (RFC 5626 calls it a flow)."""

from __future__ import annotations

from typing import NamedTuple

from mypy_extensions import mypyc_attr


class Listener(NamedTuple):
    """A socket that the server listens on."""

    proto: str  # lower case: udp
    host: str  # IPv6 without brackets
    port: int

    @property
    def sent_by(self) -> str:
        """``host:port`` as Via and Record-Route write it, the port left out when it is 5060."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 5060 else f"{host}:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.proto}:{host}:{self.port}"


class Flow(NamedTuple):
    """One of our listeners and the peer's address: what came from ``host:port``, or what shall go there.

    As a source ``host`` is an IP address; as a destination it may be a host name, which the transport resolves.
    """

    listener: Listener
    host: str
    port: int


@mypyc_attr(native_class=False)  # mypyc compiles no class with a tuple as its base
class OpenFlow(Flow):
    """A flow for what is to be sent over the connection that there is, and not at all once that is gone."""

    __slots__ = ()


@mypyc_attr(native_class=False)
class LastFlow(Flow):
    """A flow for the last that is sent over its connection."""

    __slots__ = ()
