"""KSR.kx: common values without the name of a variable (Kamailio: modules/kemix)."""

from __future__ import annotations

from typing import Any

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.modules.base import Module, Services
from polykemi.pv.classes.script import to_int
from polykemi.sip.flow import TRANSPORT_NUMBERS
from polykemi.sip.message import Request, Response


class Kx(Module):
    """Getters; ``get_x`` gives null as null, ``getw_x`` as ``<null>``, ``gete_x`` as empty text."""

    name = "kx"

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        getters = services.variables.getters
        self._ruri = getters["$ru"]
        self._ruser = getters["$rU"]
        self._rhost = getters["$rd"]
        self._ouri = getters["$ou"]
        self._furi = getters["$fu"]
        self._fuser = getters["$fU"]
        self._fhost = getters["$fd"]
        self._turi = getters["$tu"]
        self._tuser = getters["$tU"]
        self._thost = getters["$td"]
        self._duri = getters["$du"]
        self._cturi = getters["$ctu"]
        self._nhuri = getters["$nh(u)"]
        self._srcuri = getters["$su"]
        self._srcaddr_sock = getters["$sas"]
        self._ua = getters["$ua"]
        self._srcip = getters["$si"]
        self._srcport = getters["$sp"]
        self._send_sock = getters["$fs"]
        self._send_sock_name = getters["$fsn"]
        self._rcvip = getters["$Ri"]
        self._rcv_sock_name = getters["$Rn"]
        self._rcvport = getters["$Rp"]
        self._rcvadvip = getters["$RAi"]
        self._rcvadvport = getters["$RAp"]
        self._rcvaddr_sock = getters["$Ras"]
        self._proto = getters["$pr"]
        self._au = getters["$au"]
        self._method = getters["$rm"]
        self._body = getters["$rb"]
        self._callid = getters["$ci"]
        self._msgbuf = getters["$mb"]

    @export()
    def get_ruri(self, ctx: RouteContext) -> Xval:
        """Return the Request-URI as it is now; null when there is none."""
        return self._ruri(ctx)

    @export()
    def get_ruser(self, ctx: RouteContext) -> Xval:
        """Return the user of the Request-URI; null when there is none."""
        return self._ruser(ctx)

    @export()
    def getw_ruser(self, ctx: RouteContext) -> Xval:
        """Return the user of the Request-URI; ``<null>`` when there is none."""
        value = self._ruser(ctx)
        return "<null>" if value is None else value

    @export()
    def gete_ruser(self, ctx: RouteContext) -> Xval:
        """Return the user of the Request-URI; empty when there is none."""
        value = self._ruser(ctx)
        return "" if value is None else value

    @export()
    def get_rhost(self, ctx: RouteContext) -> Xval:
        """Return the host of the Request-URI; null when there is none."""
        return self._rhost(ctx)

    @export()
    def getw_rhost(self, ctx: RouteContext) -> Xval:
        """Return the host of the Request-URI; ``<null>`` when there is none."""
        value = self._rhost(ctx)
        return "<null>" if value is None else value

    @export()
    def gete_rhost(self, ctx: RouteContext) -> Xval:
        """Return the host of the Request-URI; empty when there is none."""
        value = self._rhost(ctx)
        return "" if value is None else value

    @export(constant=True)
    def get_ouri(self, ctx: RouteContext) -> Xval:
        """Return the Request-URI as it came; null when there is none."""
        return self._ouri(ctx)

    @export(constant=True)
    def get_furi(self, ctx: RouteContext) -> Xval:
        """Return the From URI; null when there is none."""
        return self._furi(ctx)

    @export(constant=True)
    def get_fuser(self, ctx: RouteContext) -> Xval:
        """Return the user of the From URI; null when there is none."""
        return self._fuser(ctx)

    @export(constant=True)
    def getw_fuser(self, ctx: RouteContext) -> Xval:
        """Return the user of the From URI; ``<null>`` when there is none."""
        value = self._fuser(ctx)
        return "<null>" if value is None else value

    @export(constant=True)
    def gete_fuser(self, ctx: RouteContext) -> Xval:
        """Return the user of the From URI; empty when there is none."""
        value = self._fuser(ctx)
        return "" if value is None else value

    @export(constant=True)
    def get_fhost(self, ctx: RouteContext) -> Xval:
        """Return the host of the From URI; null when there is none."""
        return self._fhost(ctx)

    @export(constant=True)
    def getw_fhost(self, ctx: RouteContext) -> Xval:
        """Return the host of the From URI; ``<null>`` when there is none."""
        value = self._fhost(ctx)
        return "<null>" if value is None else value

    @export(constant=True)
    def gete_fhost(self, ctx: RouteContext) -> Xval:
        """Return the host of the From URI; empty when there is none."""
        value = self._fhost(ctx)
        return "" if value is None else value

    @export(constant=True)
    def get_turi(self, ctx: RouteContext) -> Xval:
        """Return the To URI; null when there is none."""
        return self._turi(ctx)

    @export(constant=True)
    def get_tuser(self, ctx: RouteContext) -> Xval:
        """Return the user of the To URI; null when there is none."""
        return self._tuser(ctx)

    @export(constant=True)
    def getw_tuser(self, ctx: RouteContext) -> Xval:
        """Return the user of the To URI; ``<null>`` when there is none."""
        value = self._tuser(ctx)
        return "<null>" if value is None else value

    @export(constant=True)
    def gete_tuser(self, ctx: RouteContext) -> Xval:
        """Return the user of the To URI; empty when there is none."""
        value = self._tuser(ctx)
        return "" if value is None else value

    @export(constant=True)
    def get_thost(self, ctx: RouteContext) -> Xval:
        """Return the host of the To URI; null when there is none."""
        return self._thost(ctx)

    @export(constant=True)
    def getw_thost(self, ctx: RouteContext) -> Xval:
        """Return the host of the To URI; ``<null>`` when there is none."""
        value = self._thost(ctx)
        return "<null>" if value is None else value

    @export(constant=True)
    def gete_thost(self, ctx: RouteContext) -> Xval:
        """Return the host of the To URI; empty when there is none."""
        value = self._thost(ctx)
        return "" if value is None else value

    @export()
    def get_duri(self, ctx: RouteContext) -> Xval:
        """Return the destination URI; null when there is none."""
        return self._duri(ctx)

    @export()
    def getw_duri(self, ctx: RouteContext) -> Xval:
        """Return the destination URI; ``<null>`` when there is none."""
        value = self._duri(ctx)
        return "<null>" if value is None else value

    @export()
    def gete_duri(self, ctx: RouteContext) -> Xval:
        """Return the destination URI; empty when there is none."""
        value = self._duri(ctx)
        return "" if value is None else value

    @export(constant=True)
    def get_cturi(self, ctx: RouteContext) -> Xval:
        """Return the URI of the first Contact; null when there is none."""
        return self._cturi(ctx)

    @export(constant=True)
    def getw_cturi(self, ctx: RouteContext) -> Xval:
        """Return the URI of the first Contact; ``<null>`` when there is none."""
        value = self._cturi(ctx)
        return "<null>" if value is None else value

    @export(constant=True)
    def gete_cturi(self, ctx: RouteContext) -> Xval:
        """Return the URI of the first Contact; empty when there is none."""
        value = self._cturi(ctx)
        return "" if value is None else value

    @export()
    def get_nhuri(self, ctx: RouteContext) -> Xval:
        """Return the URI of the next hop: destination URI, else Request-URI; null when there is none."""
        return self._nhuri(ctx)

    @export(constant=True)
    def get_srcuri(self, ctx: RouteContext) -> Xval:
        """Return the source address as SIP URI; null when there is none."""
        return self._srcuri(ctx)

    @export(constant=True)
    def get_srcaddr_sock(self, ctx: RouteContext) -> Xval:
        """Return the source address as proto:host:port; null when there is none."""
        return self._srcaddr_sock(ctx)

    @export(constant=True)
    def get_ua(self, ctx: RouteContext) -> Xval:
        """Return the User-Agent; null when there is none."""
        return self._ua(ctx)

    @export(constant=True)
    def getw_ua(self, ctx: RouteContext) -> Xval:
        """Return the User-Agent; ``<null>`` when there is none."""
        value = self._ua(ctx)
        return "<null>" if value is None else value

    @export(constant=True)
    def gete_ua(self, ctx: RouteContext) -> Xval:
        """Return the User-Agent; empty when there is none."""
        value = self._ua(ctx)
        return "" if value is None else value

    @export(constant=True)
    def get_srcip(self, ctx: RouteContext) -> Xval:
        """Return the source IP address; null when there is none."""
        return self._srcip(ctx)

    @export(constant=True)
    def get_srcport(self, ctx: RouteContext) -> Xval:
        """Return the source port; null when there is none."""
        return self._srcport(ctx)

    @export()
    def get_send_sock(self, ctx: RouteContext) -> Xval:
        """Return the forced send socket as proto:host:port; null when there is none."""
        return self._send_sock(ctx)

    @export()
    def get_send_sock_name(self, ctx: RouteContext) -> Xval:
        """Return the name of the forced send socket; null when there is none."""
        return self._send_sock_name(ctx)

    @export(constant=True)
    def get_rcvip(self, ctx: RouteContext) -> Xval:
        """Return the IP address that the message arrived at; null when there is none."""
        return self._rcvip(ctx)

    @export(constant=True)
    def get_rcv_sock_name(self, ctx: RouteContext) -> Xval:
        """Return the name of the socket that the message arrived at; null when there is none."""
        return self._rcv_sock_name(ctx)

    @export(constant=True)
    def get_rcvport(self, ctx: RouteContext) -> Xval:
        """Return the port that the message arrived at; null when there is none."""
        return self._rcvport(ctx)

    @export(constant=True)
    def get_rcvadvip(self, ctx: RouteContext) -> Xval:
        """Return the advertised IP address of the socket that the message arrived at; null when there is none."""
        return self._rcvadvip(ctx)

    @export(constant=True)
    def get_rcvadvport(self, ctx: RouteContext) -> Xval:
        """Return the advertised port of the socket that the message arrived at; null when there is none."""
        return self._rcvadvport(ctx)

    @export(constant=True)
    def get_rcvaddr_sock(self, ctx: RouteContext) -> Xval:
        """Return the socket that the message arrived at as proto:host:port; null when there is none."""
        return self._rcvaddr_sock(ctx)

    @export(constant=True)
    def get_proto(self, ctx: RouteContext) -> Xval:
        """Return the transport that the message came over: udp, tcp, ...; null when there is none."""
        return self._proto(ctx)

    @export(constant=True)
    def get_au(self, ctx: RouteContext) -> Xval:
        """Return the user of the digest credentials; null when there is none."""
        return self._au(ctx)

    @export(constant=True)
    def getw_au(self, ctx: RouteContext) -> Xval:
        """Return the user of the digest credentials; ``<null>`` when there is none."""
        value = self._au(ctx)
        return "<null>" if value is None else value

    @export(constant=True)
    def gete_au(self, ctx: RouteContext) -> Xval:
        """Return the user of the digest credentials; empty when there is none."""
        value = self._au(ctx)
        return "" if value is None else value

    @export(constant=True)
    def get_method(self, ctx: RouteContext) -> Xval:
        """Return the method; of a reply, that of its CSeq; null when there is none."""
        return self._method(ctx)

    @export(constant=True)
    def get_body(self, ctx: RouteContext) -> Xval:
        """Return the body; null when there is none."""
        return self._body(ctx) or None

    @export(constant=True)
    def getw_body(self, ctx: RouteContext) -> Xval:
        """Return the body; ``<null>`` when there is none."""
        return self._body(ctx) or "<null>"

    @export(constant=True)
    def gete_body(self, ctx: RouteContext) -> Xval:
        """Return the body; empty when there is none."""
        return self._body(ctx) or ""

    @export(constant=True)
    def get_callid(self, ctx: RouteContext) -> Xval:
        """Return the Call-ID; null when there is none."""
        return self._callid(ctx)

    @export(constant=True)
    def get_msgbuf(self, ctx: RouteContext) -> Xval:
        """Return the message as it came; null when there is none."""
        return self._msgbuf(ctx)

    # ---- numbers
    @export()
    def get_send_sock_port(self, ctx: RouteContext) -> int:
        """Return the port of the forced send socket, 0 when there is none."""
        return 0 if ctx.force_listener is None else ctx.force_listener.port

    @export(constant=True)
    def get_protoid(self, ctx: RouteContext) -> int:
        """Return Kamailio's number of the transport: 1 udp, 2 tcp, 3 tls, 4 sctp, 5 ws, 6 wss."""
        return TRANSPORT_NUMBERS.get(ctx.flow.listener.proto, 0)

    @export(constant=True)
    def get_status(self, ctx: RouteContext) -> int:
        """Return the status of the reply, -1 for a request."""
        message = ctx.message
        return message.status if isinstance(message, Response) else -1

    @export(constant=True)
    def gets_status(self, ctx: RouteContext) -> Xval:
        """Return the status of the reply as text, null for a request."""
        message = ctx.message
        return str(message.status) if isinstance(message, Response) else None

    @export(constant=True)
    def get_bodylen(self, ctx: RouteContext) -> int:
        """Return the length of the body in octets."""
        body = self._body(ctx)
        return len(body) if isinstance(body, str) else 0

    @export(constant=True)
    def get_timestamp(self, ctx: RouteContext) -> int:
        """Return the time in seconds since the epoch."""
        return int(ctx.now)

    @export(constant=True)
    def get_conid(self, ctx: RouteContext) -> int:
        """Return the id of the connection that the message came over, -1 for datagrams."""
        return self.services.connections.ident(ctx.flow)

    @export(constant=True)
    def get_msglen(self, ctx: RouteContext) -> int:
        """Return the length of the message in octets."""
        return len(ctx.message.raw)

    @export(constant=True)
    def get_msgtype(self, ctx: RouteContext) -> int:
        """Return 1 for a request, 2 for a reply."""
        return 1 if isinstance(ctx.message, Request) else 2

    # ---- definitions and the environment of the process
    @export()
    def get_def(self, ctx: RouteContext, name: str) -> Xval:
        """Return the definition ``name``, empty when there is none."""
        return self.services.variables.environment.definitions.get(name, "")

    @export()
    def get_defn(self, ctx: RouteContext, name: str) -> int:
        """Return the definition ``name`` as number, 0 when there is none."""
        return to_int(self.services.variables.environment.definitions.get(name, ""))

    @export()
    def ifdef(self, ctx: RouteContext, name: str) -> bool:
        """Tell whether there is a definition ``name``."""
        return name in self.services.variables.environment.definitions

    @export()
    def ifndef(self, ctx: RouteContext, name: str) -> bool:
        """Tell whether there is no definition ``name``."""
        return name not in self.services.variables.environment.definitions

    @export()
    def get_env(self, ctx: RouteContext, name: str) -> Xval:
        """Return the environment variable ``name`` of the process, null when there is none."""
        return self.services.variables.environment.process.get(name)

    @export()
    def get_envn(self, ctx: RouteContext, name: str) -> int:
        """Return the environment variable ``name`` of the process as number, 0 when there is none."""
        return to_int(self.services.variables.environment.process.get(name, ""))
