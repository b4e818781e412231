"""Calls that the server connects by REFER (RFC 3515): dlg_bridge, dlg_refer. Part of dialog."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from polykemi.errors import ParseError
from polykemi.modules.dialog_requests import within
from polykemi.modules.dialog_state import CALLEE, CALLER, Dialog
from polykemi.modules.tm_local import LocalReply, LocalRequest, within_dialog
from polykemi.sip.header import parse_name_addr

if TYPE_CHECKING:
    from polykemi.modules.dialog_params import DialogParams
    from polykemi.modules.tm import Tm

log = logging.getLogger("polykemi.dialog")

# nobody listens there: the one that is called waits for the REFER
_HOLD: Final = (
    b"v=0\r\no=kamailio-bridge 0 0 IN IP4 0.0.0.0\r\ns=kamailio\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=audio 9 RTP/AVP 8 0\r\n"
    b"a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n"
)


class Transfers:
    """Sends INVITE, REFER and BYE one after the other."""

    def __init__(self, tm: Tm, params: DialogParams) -> None:
        self._tm = tm
        self._controller = params.bridge_controller
        self._contact = f"Contact: <{params.bridge_contact}>"

    def bridge(self, caller: str, to: str, proxy: str, now: float) -> bool:
        """Call ``caller``, through ``proxy`` when it is not empty, and refer it to ``to`` when it answers."""
        headers = [self._contact, "Content-Type: application/sdp"]
        invite = LocalRequest("INVITE", caller, self._controller, caller, headers, _HOLD, dst_uri=proxy)

        def answered(reply: LocalReply) -> None:
            response = reply.response
            if response is None or not 200 <= reply.status < 300:
                log.info("dlg_bridge: %s answered %d", caller, reply.status)
                return
            try:
                target = parse_name_addr(response.list("contact")[0]).uri
            except (IndexError, ParseError):
                log.error("dlg_bridge: %s answered without a Contact", caller)
                return
            routes = response.list("record-route")[::-1]
            peer = response.get("to") or invite.to
            refer = within_dialog("REFER", invite, target, peer, routes, invite.cseq + 1)
            self._refer(refer, within_dialog("BYE", invite, target, peer, routes, invite.cseq + 2), to, reply.now)

        return self._tm.request(invite, now, answered) == 1

    def refer(self, dialog: Dialog, side: str, to: str, now: float) -> bool:
        """Refer the peer of ``side`` to ``to``, in the name of ``side``, and end its call."""
        named = CALLER if side.lower() == "caller" else CALLEE
        peer = CALLEE if named == CALLER else CALLER
        try:
            refer, bye = (within(dialog, method, peer, [], ahead=n) for method, n in (("REFER", 1), ("BYE", 2)))
        except ParseError as error:
            log.error("dialog %s: no REFER: %s", dialog.rr_param, error.reason)
            return False
        local, remote = dialog.from_uri, dialog.to_uri
        if named == CALLER:  # as Kamailio: the URIs change sides, the tags do not
            local, remote = remote, local
        for request in (refer, bye):
            request.from_ = f"<{local}>;tag={dialog.legs[named].tag}"
            request.to = f"<{remote}>;tag={dialog.legs[peer].tag}"
        return self._refer(refer, bye, to, now)

    def _refer(self, refer: LocalRequest, bye: LocalRequest, to: str, now: float) -> bool:
        if "\r" in to or "\n" in to:
            log.error("dialog: %r cannot be referred to", to)
            return False
        refer.headers = [f"Referred-By: {self._controller}", f"Refer-To: {to}", self._contact]

        def referred(reply: LocalReply) -> None:
            self._tm.request(bye, reply.now)

        return self._tm.request(refer, now, referred) == 1
