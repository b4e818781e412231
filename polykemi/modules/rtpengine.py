"""rtpengine: let the media of calls pass through relays (Kamailio: rtpengine; the relay is Sipwise's rtpengine).

A question to a relay blocks the server until the answer is there, as it blocks a worker of Kamailio: on one machine or in
one network for less than a millisecond. A relay that is dead costs ``rtpengine_tout_ms`` times ``rtpengine_retr`` once
(nothing when its machine says that nobody listens there), then it is not asked for ``rtpengine_disable_tout`` seconds.
Servers with relays far away want a lower ``rtpengine_tout_ms``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.documents import compact, pretty
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.rtpengine_bencode import Bencoded
from polykemi.modules.rtpengine_nodes import NodeSet
from polykemi.modules.rtpengine_quality import write_quality
from polykemi.modules.rtpengine_relay import Call, Refused, RtpengineParams
from polykemi.modules.rtpengine_rpc import RtpengineCommands
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import plain
from polykemi.sip.message import Message, Response
from polykemi.sip.sdp import parse_sdp

log = logging.getLogger("polykemi.rtpengine")

_MANAGED: Final = ("INVITE", "ACK", "CANCEL", "BYE", "UPDATE", "PRACK")
_TRAFFIC: Final = ("bytes", "packets", "errors")


class Rtpengine(RtpengineCommands):
    """Functions of the script. ``..0``: without flags; ``..2``: the relay reads the flags, ``viabranch`` as the flag via-branch."""

    name = "rtpengine"
    Params = RtpengineParams

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $rtpstat and its other name $rtpestat."""
        return {"rtpstat": plain(self._statistics), "rtpestat": plain(self._statistics)}

    # ---- sets
    @export()
    def set_rtpengine_set(self, ctx: RouteContext, r1: int) -> int:
        """Take set ``r1`` for what is asked about this message. Answers 1, or -1 when there is no such set."""
        return self.choose_sets(ctx, r1, None)

    @export()
    def set_rtpengine_set2(self, ctx: RouteContext, r1: int, r2: int) -> int:
        """Take two sets: media pass through a relay of each. Answers 1, or -1 when one of them is missing."""
        return self.choose_sets(ctx, r1, r2)

    # ---- calls
    @export()
    def rtpengine_manage0(self, ctx: RouteContext) -> int:
        """Offer, answer or delete, whatever the message asks for, without flags. Answers 1 or -1."""
        return self._manage(ctx, Call(""))

    @export()
    def rtpengine_manage(self, ctx: RouteContext, flags: str) -> int:
        """Offer, answer or delete, whatever the message asks for. Answers 1, or -1 (also when it asks for nothing).

        INVITE and UPDATE with SDP: offer; replies, ACK and PRACK with SDP: answer (a reply to an INVITE without SDP: offer);
        BYE, CANCEL, replies of 300 and above, failure routes: delete; branch failure routes: nothing, 1.
        """
        return self._manage(ctx, Call("", flags))

    @export()
    def rtpengine_manage2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Offer, answer or delete, whatever the message asks for; the relay reads the flags. Answers 1 or -1."""
        return self._manage(ctx, Call("", flags, viabranch))

    @export()
    def rtpengine_offer0(self, ctx: RouteContext) -> int:
        """Offer the SDP of the message to a relay, without flags; what it makes of it is sent on. Answers 1 or -1."""
        return self._exchange(ctx, 1, Call("offer"))

    @export()
    def rtpengine_offer(self, ctx: RouteContext, flags: str) -> int:
        """Offer the SDP of the message to a relay; what it makes of it is sent on. Answers 1 or -1.

        ``flags``: words with a space between them (``replace-origin replace-session-connection ICE=remove RTP/AVP``).
        """
        return self._exchange(ctx, 1, Call("offer", flags))

    @export()
    def rtpengine_offer2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Offer the SDP of the message to a relay, which reads the flags. Answers 1 or -1."""
        return self._exchange(ctx, 1, Call("offer", flags, viabranch))

    @export()
    def rtpengine_answer0(self, ctx: RouteContext) -> int:
        """Give the answer's SDP to the relay, without flags; what it makes of it is sent on. Answers 1 or -1."""
        return self._exchange(ctx, 2, Call("answer"))

    @export()
    def rtpengine_answer(self, ctx: RouteContext, flags: str) -> int:
        """Give the answer's SDP to the relay; what it makes of it is sent on. Answers 1 or -1."""
        return self._exchange(ctx, 2, Call("answer", flags))

    @export()
    def rtpengine_answer2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Give the answer's SDP to the relay, which reads the flags. Answers 1 or -1."""
        return self._exchange(ctx, 2, Call("answer", flags, viabranch))

    @export()
    def rtpengine_delete0(self, ctx: RouteContext) -> int:
        """End the call at the relay. Answers 1 or -1."""
        return self._command(ctx, Call("delete"))

    @export()
    def rtpengine_delete(self, ctx: RouteContext, flags: str) -> int:
        """End the call at the relay; the flag via-branch: only this branch, to-tag: only this dialog. Answers 1 or -1."""
        return self._command(ctx, Call("delete", flags))

    @export()
    def rtpengine_delete2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """End the call at the relay, which reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("delete", flags, viabranch))

    @export()
    def rtpengine_connect0(self, ctx: RouteContext) -> int:
        """Connect two sides directly, those of the message's tags. Answers 1 or -1."""
        return self._command(ctx, Call("connect", newer=True))

    @export()
    def rtpengine_connect(self, ctx: RouteContext, flags: str) -> int:
        """Connect two sides directly, those of the tags of the message or in ``flags``. Answers 1 or -1."""
        return self._command(ctx, Call("connect", flags, newer=True))

    @export()
    def rtpengine_connect2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Connect two sides directly; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("connect", flags, viabranch))

    # ---- what the relay knows of a call
    @export()
    def rtpengine_query0(self, ctx: RouteContext) -> int:
        """Ask the relay about the call; the quality goes into the variables of the mos_... parameters. Answers 1 or -1."""
        return self._command(ctx, Call("query"))

    @export()
    def rtpengine_query(self, ctx: RouteContext, flags: str) -> int:
        """Ask the relay about the call; the quality goes into the variables of the mos_... parameters. Answers 1 or -1."""
        return self._command(ctx, Call("query", flags))

    @export()
    def rtpengine_query2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Ask the relay about the call; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("query", flags, viabranch))

    @export()
    def rtpengine_query_v(self, ctx: RouteContext, fmt: str, dpv: str) -> int:
        """Write what the relay knows of the call into variable ``dpv`` as JSON: ``fmt`` j, or jp with line ends. Answers 1 or -1."""
        put = self.services.variables.setter(dpv)
        if put is None:
            return -1

        def work(nodes: NodeSet | None, more: bool) -> int:
            answer, _ = self.ask(ctx, nodes, Call("query"))
            if fmt[:1] not in ("j", "J"):
                raise Refused(f"rtpengine_query_v: expected the format j or jp, got {fmt!r}")
            put(ctx, pretty(answer) if fmt[1:2] in ("p", "P") else compact(answer))
            return 1

        return self.through_sets(ctx, 1, work)

    def _statistics(self, ctx: RouteContext) -> Xval:
        texts: list[str] = []

        def work(nodes: NodeSet | None, more: bool) -> int:
            answer, _ = self.ask(ctx, nodes, Call("query"))
            totals = answer.get("totals")
            kinds = [totals.get(kind) if isinstance(totals, dict) else None for kind in ("RTP", "RTCP")]
            if not all(isinstance(kind, dict) for kind in kinds):
                raise Refused("the answer has no totals")
            texts.append("; ".join(f"{n}: {_traffic(kind)}" for n, kind in zip(("RTP", "RTCP"), kinds, strict=True)))
            return 1

        return texts[-1] if self.through_sets(ctx, 1, work) > 0 else None

    # ---- media of a call
    @export()
    def start_recording(self, ctx: RouteContext) -> int:
        """Record the call. Answers 1 or -1."""
        return self._command(ctx, Call("start recording"))

    @export()
    def stop_recording(self, ctx: RouteContext) -> int:
        """Record the call no more. Answers 1 or -1."""
        return self._command(ctx, Call("stop recording"))

    @export()
    def play_media(self, ctx: RouteContext, flags: str) -> int:
        """Play a file (flags file=..., blob=..., db-id=...) to a side; media_duration gets its milliseconds. Answers 1 or -1."""
        return self._play(ctx, Call("play media", flags))

    @export()
    def play_media2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Play a file to a side; the relay reads the flags. Answers 1 or -1."""
        return self._play(ctx, Call("play media", flags, viabranch))

    @export()
    def stop_media0(self, ctx: RouteContext) -> int:
        """Stop what is played. Answers 1 or -1."""
        return self._command(ctx, Call("stop media"))

    @export()
    def stop_media(self, ctx: RouteContext, flags: str) -> int:
        """Stop what is played to the side that the flags name. Answers 1 or -1."""
        return self._command(ctx, Call("stop media", flags))

    @export()
    def stop_media2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Stop what is played; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("stop media", flags, viabranch))

    @export()
    def play_dtmf(self, ctx: RouteContext, flags: str) -> int:
        """Send a DTMF tone (flag code=...). Answers 1 or -1."""
        return self._command(ctx, Call("play DTMF", flags, newer=True))

    @export()
    def block_media0(self, ctx: RouteContext) -> int:
        """Do not forward the media of the side that the flags name, of all without one. Answers 1 or -1."""
        return self._command(ctx, Call("block media"))

    @export()
    def block_media(self, ctx: RouteContext, flags: str) -> int:
        """Do not forward the media of the side that the flags name, of all without one; ``flags`` as for ``rtpengine_offer``. Answers 1 or -1."""
        return self._command(ctx, Call("block media", flags))

    @export()
    def block_media2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Do not forward the media of the side that the flags name, of all without one; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("block media", flags, viabranch))

    @export()
    def unblock_media0(self, ctx: RouteContext) -> int:
        """Forward media again. Answers 1 or -1."""
        return self._command(ctx, Call("unblock media"))

    @export()
    def unblock_media(self, ctx: RouteContext, flags: str) -> int:
        """Forward media again; ``flags`` as for ``rtpengine_offer``. Answers 1 or -1."""
        return self._command(ctx, Call("unblock media", flags))

    @export()
    def unblock_media2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Forward media again; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("unblock media", flags, viabranch))

    @export()
    def silence_media0(self, ctx: RouteContext) -> int:
        """Put silence in the place of the media. Answers 1 or -1."""
        return self._command(ctx, Call("silence media"))

    @export()
    def silence_media(self, ctx: RouteContext, flags: str) -> int:
        """Put silence in the place of the media; ``flags`` as for ``rtpengine_offer``. Answers 1 or -1."""
        return self._command(ctx, Call("silence media", flags))

    @export()
    def silence_media2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Put silence in the place of the media; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("silence media", flags, viabranch))

    @export()
    def unsilence_media0(self, ctx: RouteContext) -> int:
        """Forward media again in the place of silence. Answers 1 or -1."""
        return self._command(ctx, Call("unsilence media"))

    @export()
    def unsilence_media(self, ctx: RouteContext, flags: str) -> int:
        """Forward media again in the place of silence; ``flags`` as for ``rtpengine_offer``. Answers 1 or -1."""
        return self._command(ctx, Call("unsilence media", flags))

    @export()
    def unsilence_media2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Forward media again in the place of silence; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("unsilence media", flags, viabranch))

    @export()
    def block_dtmf0(self, ctx: RouteContext) -> int:
        """Do not forward DTMF. Answers 1 or -1."""
        return self._command(ctx, Call("block DTMF"))

    @export()
    def block_dtmf(self, ctx: RouteContext, flags: str) -> int:
        """Do not forward DTMF; ``flags`` as for ``rtpengine_offer``. Answers 1 or -1."""
        return self._command(ctx, Call("block DTMF", flags))

    @export()
    def block_dtmf2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Do not forward DTMF; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("block DTMF", flags, viabranch))

    @export()
    def unblock_dtmf0(self, ctx: RouteContext) -> int:
        """Forward DTMF again. Answers 1 or -1."""
        return self._command(ctx, Call("unblock DTMF"))

    @export()
    def unblock_dtmf(self, ctx: RouteContext, flags: str) -> int:
        """Forward DTMF again; ``flags`` as for ``rtpengine_offer``. Answers 1 or -1."""
        return self._command(ctx, Call("unblock DTMF", flags))

    @export()
    def unblock_dtmf2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Forward DTMF again; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("unblock DTMF", flags, viabranch))

    @export()
    def start_forwarding0(self, ctx: RouteContext) -> int:
        """Send a copy of the media to the relay's recorder. Answers 1 or -1."""
        return self._command(ctx, Call("start forwarding", newer=True))

    @export()
    def start_forwarding(self, ctx: RouteContext, flags: str) -> int:
        """Send a copy of the media to the relay's recorder; ``flags`` as for ``rtpengine_offer``. Answers 1 or -1."""
        return self._command(ctx, Call("start forwarding", flags, newer=True))

    @export()
    def start_forwarding2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Send a copy of the media to the relay's recorder; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("start forwarding", flags, viabranch))

    @export()
    def stop_forwarding0(self, ctx: RouteContext) -> int:
        """Send no more copies to the relay's recorder. Answers 1 or -1."""
        return self._command(ctx, Call("stop forwarding", newer=True))

    @export()
    def stop_forwarding(self, ctx: RouteContext, flags: str) -> int:
        """Send no more copies to the relay's recorder; ``flags`` as for ``rtpengine_offer``. Answers 1 or -1."""
        return self._command(ctx, Call("stop forwarding", flags, newer=True))

    @export()
    def stop_forwarding2(self, ctx: RouteContext, flags: str, viabranch: str) -> int:
        """Send no more copies to the relay's recorder; the relay reads the flags. Answers 1 or -1."""
        return self._command(ctx, Call("stop forwarding", flags, viabranch))

    # ---- a third party that listens
    @export()
    def rtpengine_subscribe_request(
        self, ctx: RouteContext, flags: str, sdp_spv: str, to_tag_spv: str, stream_xavp: str
    ) -> int:
        """Ask for a copy of the media: its SDP and tag go into variables, tags and labels into an XAVP. Answers 1 or -1."""

        def work(nodes: NodeSet | None, more: bool) -> int:
            answer, _ = self.ask(ctx, nodes, Call("subscribe request", flags, newer=True))
            for key, variable in (("sdp", sdp_spv), ("to-tag", to_tag_spv)):
                value = answer.get(key)
                if not isinstance(value, str):
                    raise Refused(f"the answer has no {key}")
                if variable and not self.services.variables.put(ctx, variable, value):
                    raise Refused(f"{variable} cannot be set")
            if stream_xavp:
                _put_streams(ctx, stream_xavp, answer.get("tag-medias"))
            return 1

        return self.through_sets(ctx, 1, work)

    @export()
    def rtpengine_subscribe_answer(self, ctx: RouteContext, flags: str) -> int:
        """Give the SDP of the third party to the relay. Answers 1 or -1."""
        return self._command(ctx, Call("subscribe answer", flags, newer=True))

    @export()
    def rtpengine_unsubscribe(self, ctx: RouteContext, flags: str) -> int:
        """Send the third party no more copies. Answers 1 or -1."""
        return self._command(ctx, Call("unsubscribe", flags, newer=True))

    # ---- what they do
    def _command(self, ctx: RouteContext, call: Call) -> int:
        return self.through_sets(ctx, 1, lambda nodes, more: self._ask_once(ctx, nodes, call))

    def _ask_once(self, ctx: RouteContext, nodes: NodeSet | None, call: Call) -> int:
        answer, _ = self.ask(ctx, nodes, call)
        if call.command in ("delete", "query"):
            expand = self.services.variables.text
            write_quality(ctx, answer, self.params, self.put, lambda source: expand(source)(ctx))
        return 1

    def _exchange(self, ctx: RouteContext, direction: int, call: Call) -> int:
        return self.through_sets(ctx, direction, lambda nodes, more: self.offer_answer(ctx, nodes, more, call))

    def _play(self, ctx: RouteContext, call: Call) -> int:
        def work(nodes: NodeSet | None, more: bool) -> int:
            answer, _ = self.ask(ctx, nodes, call)
            duration = answer.get("duration")
            self.put(ctx, self.params.media_duration, str(duration if isinstance(duration, int) else -1))
            return 1

        return self.through_sets(ctx, 1, work)

    def _manage(self, ctx: RouteContext, call: Call) -> int:
        if ctx.kind is Route.BRANCH_FAILURE:  # the failure route of the transaction will do it
            return 1
        command = managed(ctx)
        if not command:
            return -1
        call = call._replace(command=command)
        if command == "delete":
            return self._command(ctx, call)
        return self._exchange(ctx, 1, call)


def managed(ctx: RouteContext) -> str:
    """Return what ``manage`` has to do with the message: offer, answer, delete, or "" for nothing."""
    message, method = ctx.message, ctx.message.cseq[1]
    if method not in _MANAGED:
        return ""
    if method in ("CANCEL", "BYE"):
        return "delete"
    if isinstance(message, Response):
        if message.status >= 300:
            return "delete"
        if not has_sdp(message):
            return ""
        asked = ctx.transaction.request if ctx.transaction is not None else None
        return "answer" if method == "UPDATE" or asked is None or has_sdp(asked) else "offer"
    if not has_sdp(message):
        return ""
    if method in ("ACK", "PRACK"):
        return "answer"
    return "delete" if method == "INVITE" and ctx.kind is Route.FAILURE else "offer"


def has_sdp(message: Message) -> bool:
    """Tell whether the message carries a session description."""
    try:
        return parse_sdp(str(message.body, "latin-1"), message.get("content-type")) is not None
    except ParseError:
        return False


def _traffic(kind: Bencoded | None) -> str:
    numbers = kind if isinstance(kind, dict) else {}
    return ", ".join(f"{numbers.get(name, -1)} {name}" for name in _TRAFFIC)


def _put_streams(ctx: RouteContext, name: str, sides: Bencoded | None) -> None:
    """Put an item with ``tag`` and ``label``, one a stream, into an XAVP for each side of the call."""
    for side in sides if isinstance(sides, list) else ():
        medias = side.get("medias") if isinstance(side, dict) else None
        if not isinstance(side, dict) or not isinstance(medias, list):
            continue
        item: dict[str, list[int | str]] = {"tag": [str(side.get("tag", ""))]}
        for media in medias:
            label = str(media.get("label", "")) if isinstance(media, dict) else ""
            if label.isdecimal():
                item.setdefault("label", []).insert(0, int(label))
        ctx.shared.xavps.setdefault(name, []).insert(0, item)
