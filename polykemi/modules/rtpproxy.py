"""rtpproxy: let the media of calls pass through relays (Kamailio: rtpproxy; the relay is Sippy's RTPproxy).

A question to a relay blocks the server until the answer is there, as it blocks a worker of Kamailio; a dead relay costs
``rtpproxy_tout`` times ``rtpproxy_retr`` once, then it is not asked for ``rtpproxy_disable_tout`` seconds.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import ParseError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import rpc
from polykemi.kemi.splice import splice_body
from polykemi.modules.base import Module, Services
from polykemi.modules.rtpengine import has_sdp
from polykemi.modules.rtpengine_nodes import parse_set
from polykemi.modules.rtpproxy_nodes import Proxies, Proxy
from polykemi.modules.rtpproxy_sdp import Answer, Rewriting, Stream, streams_of
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.avp import avp_parameter
from polykemi.pv.classes.factories import plain
from polykemi.sip.grammar import is_host, to_ip, to_port
from polykemi.sip.header import Via
from polykemi.sip.message import Request, Response
from polykemi.sip.sdp import parse_sdp

log = logging.getLogger("polykemi.rtpproxy")

_NO_PROXY: Final = -3
_PROXIED: Final = -2
_MANAGED: Final = ("INVITE", "ACK", "CANCEL", "BYE", "UPDATE", "PRACK")
_FLAGS: Final = re.compile(r"(?:[123abielfrcoxwtABIELFRCOXWT]|[zZ][0-9]*)*")
_DESTROY_FLAGS: Final = re.compile(r"[123abielfrcoxwtzABIELFRCOXWTZ]*")


@dataclass(frozen=True, slots=True)
class RtpproxyParams:
    """Kamailio's names and defaults; ``rtpproxy_sock`` has one definition for each set, ``1 == udp:10.0.0.1:7722=2 ...``.

    ``db_url``: when it is not empty the relays stand in the table ``table_name`` of the server's own database.
    """

    rtpproxy_sock: tuple[str, ...] = ()
    rtpproxy_disable_tout: int = 60  # seconds that a dead relay is left alone
    rtpproxy_tout: int = 1  # seconds, for one try
    rtpproxy_retr: int = 5  # tries
    nortpproxy_str: str = "a=nortpproxy:yes"
    timeout_socket: str = ""
    ice_candidate_priority_avp: str = ""
    extra_id_pv: str = ""
    db_url: str = ""
    table_name: str = "rtpproxy"
    rtp_inst_pvar: str = ""

    def __post_init__(self) -> None:
        for definition in self.rtpproxy_sock:
            parse_set(definition, 0, "rtpproxy_sock")
        if self.rtp_inst_pvar and self.rtp_inst_pvar[0] != "$":
            raise ValueError(f"rtp_inst_pvar: expected a variable, got {self.rtp_inst_pvar!r}")
        avp_parameter("ice_candidate_priority_avp", self.ice_candidate_priority_avp)


@dataclass(frozen=True, slots=True)
class Dialog:
    """What names a call to a relay: ``call_id`` with the branch behind it."""

    call_id: str
    whole_id: str
    from_tag: str
    to_tag: str


class Refused(Exception):
    """The function answers ``code``; the text says why."""

    def __init__(self, cause: str, code: int = -1) -> None:
        super().__init__(cause)
        self.code = code


class Rtpproxy(Module):
    """Functions of the script. Flags are letters: a c e f i l o r w x z20 about media, 1 2 3 b t about what names the call."""

    name = "rtpproxy"
    Params = RtpproxyParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        p: RtpproxyParams = self.params
        cookie = services.ids.unique()[:12]
        self.proxies = Proxies(services.peers, p.rtpproxy_retr, p.rtpproxy_tout, p.rtpproxy_disable_tout, cookie)
        self._chosen: tuple[bytes, int] | None = None  # for which message, by set_rtpproxy_set

    def start(self, now: float) -> None:
        """Read the relays and ask each what it can do. Raise DataError."""
        p: RtpproxyParams = self.params
        if p.db_url:
            for setid, url, weight, flags in self.services.database.select(
                p.table_name, ["setid", "url", "weight", "flags"]
            ):
                self.proxies.add(int(setid), str(url), int(weight), disabled=bool(flags))
        for definition in () if p.db_url else p.rtpproxy_sock:
            setid, found = parse_set(definition, 0, "rtpproxy_sock")
            for url, weight in found:
                self.proxies.add(setid, url, weight)
        for proxies in self.proxies.sets.values():
            for proxy in proxies:
                self.proxies.probe(proxy, now)

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $rtppstat, and $rtpstat when this module has relays: rtpengine has one of that name too."""
        classes = {"rtppstat": plain(self._statistics)}
        if self.params.rtpproxy_sock or self.params.db_url:
            classes["rtpstat"] = classes["rtppstat"]
        return classes

    # ---- calls
    @export()
    def set_rtpproxy_set(self, ctx: RouteContext, rset: int) -> int:
        """Take set ``rset`` for what is asked about this message. Answers 1, or -1 when there is no such set."""
        if rset not in self.proxies.sets:
            log.error("there is no set %d", rset)
            return -1
        self._chosen = ctx.message.raw, rset
        return 1

    @export()
    def rtpproxy_manage0(self, ctx: RouteContext) -> int:
        """Offer, answer or destroy, whatever the message asks for, without flags. Answers as ``rtpproxy_offer``."""
        return self._manage(ctx, "", "")

    @export()
    def rtpproxy_manage(self, ctx: RouteContext, flags: str) -> int:
        """Offer, answer or destroy, whatever the message asks for. Answers as ``rtpproxy_offer``; -1 when it asks for nothing."""
        return self._manage(ctx, flags, "")

    @export()
    def rtpproxy_manage_ip(self, ctx: RouteContext, flags: str, mip: str) -> int:
        """Offer, answer or destroy, and write ``mip`` into the SDP whatever the relay says. Answers as ``rtpproxy_offer``."""
        return self._manage(ctx, flags, mip)

    @export()
    def rtpproxy_offer0(self, ctx: RouteContext) -> int:
        """Take a relay for the media of an offer, without flags. Answers as ``rtpproxy_offer``."""
        return self._force(ctx, "", "", offer=True)

    @export()
    def rtpproxy_offer(self, ctx: RouteContext, flags: str) -> int:
        """Take a relay for the media of an offer. Answers 1, -1 error, -2 a relay is in the SDP already, -3 no relay."""
        return self._force(ctx, flags, "", offer=True)

    @export()
    def rtpproxy_offer_ip(self, ctx: RouteContext, flags: str, mip: str) -> int:
        """Take a relay, and write ``mip`` into the SDP whatever it says. Answers as ``rtpproxy_offer``."""
        return self._force(ctx, flags, mip, offer=True)

    @export()
    def rtpproxy_answer0(self, ctx: RouteContext) -> int:
        """Take the relay of the offer for the media of the answer, without flags. Answers as ``rtpproxy_offer``."""
        return self.rtpproxy_answer(ctx, "")

    @export()
    def rtpproxy_answer(self, ctx: RouteContext, flags: str) -> int:
        """Take the relay of the offer for the media of the answer (a reply, an ACK). Answers as ``rtpproxy_offer``."""
        if isinstance(ctx.message, Request) and ctx.method != "ACK":
            return -1
        return self._force(ctx, flags, "", offer=False)

    @export()
    def rtpproxy_answer_ip(self, ctx: RouteContext, flags: str, mip: str) -> int:
        """Take the relay of the offer, and write ``mip`` into the SDP. Answers as ``rtpproxy_offer``."""
        return self._force(ctx, flags, mip, offer=False)

    @export()
    def rtpproxy_destroy0(self, ctx: RouteContext) -> int:
        """End the call at the relay, without flags. Answers 1, or -1 without a relay."""
        return self.rtpproxy_destroy(ctx, "")

    @export()
    def rtpproxy_destroy(self, ctx: RouteContext, flags: str) -> int:
        """End the call at the relay; flag t: all dialogs of the call. Answers 1 (whatever the relay says), or -1 without one."""
        try:
            if not _DESTROY_FLAGS.fullmatch(flags):
                raise Refused(f"unknown flag in {flags!r}")
            dialog = self._dialog(ctx, flags)
            to_tag = "" if "t" in flags.lower() else dialog.to_tag
            self._tell(ctx, f"D {dialog.whole_id} {dialog.from_tag}{' ' * bool(to_tag)}{to_tag}", dialog.call_id)
        except Refused as refusal:
            log.error("%s", refusal)
            return refusal.code
        return 1

    @export()
    def start_recording(self, ctx: RouteContext) -> int:
        """Record the call. Answers 1 (whatever the relay says), or -1 without a relay."""
        return self._about(ctx, lambda first, second: f"{first}{' ' * bool(second)}{second}", "R")

    # ---- streams
    @export()
    def rtpproxy_stream2uac(self, ctx: RouteContext, pname: str, count: int) -> int:
        """Play file ``pname`` to the caller ``count`` times (-1: without end). Answers 1, or -1."""
        return self._stream(ctx, f"P{count}", f"{pname} session ", to_caller=True)

    @export()
    def rtpproxy_stream2uas(self, ctx: RouteContext, pname: str, count: int) -> int:
        """Play file ``pname`` to the callee ``count`` times (-1: without end). Answers 1, or -1."""
        return self._stream(ctx, f"P{count}", f"{pname} session ", to_caller=False)

    @export()
    def rtpproxy_stop_stream2uac(self, ctx: RouteContext) -> int:
        """Stop what is played to the caller. Answers 1, or -1."""
        return self._stream(ctx, "S", "", to_caller=True)

    @export()
    def rtpproxy_stop_stream2uas(self, ctx: RouteContext) -> int:
        """Stop what is played to the callee. Answers 1, or -1."""
        return self._stream(ctx, "S", "", to_caller=False)

    def _stream(self, ctx: RouteContext, command: str, what: str, *, to_caller: bool) -> int:
        try:
            dialog = self._dialog(ctx, "")
            proxy = self._proxy(ctx, dialog.call_id)
            first, second = (dialog.from_tag, dialog.to_tag) if to_caller else (dialog.to_tag, dialog.from_tag)
            if not proxy.takes_payloads or not first:
                raise Refused(f"{proxy.url}: it cannot play streams" if first else "there is no To tag")
            end = f"{second};1" if second else ""
            self.proxies.ask(proxy, f"{command} {dialog.call_id} {what}{first};1 {end}", ctx.now)
        except Refused as refusal:
            log.error("%s", refusal)
            return refusal.code
        return 1

    def _statistics(self, ctx: RouteContext) -> Xval:
        answers: list[str | None] = []
        self._about(ctx, lambda first, second: f"{first};1 {second}" if second else first, "Q", answers)
        return answers[0] if answers else None

    def _about(self, ctx: RouteContext, tags: Any, command: str, answers: list[str | None] | None = None) -> int:
        """Ask about the call; in a reply the sides are the other way round."""
        try:
            dialog = self._dialog(ctx, "")
            first, second = dialog.from_tag, dialog.to_tag
            if isinstance(ctx.message, Response):
                first, second = second, first
            if not first:
                raise Refused("there is no To tag")
            answer = self._tell(ctx, f"{command} {dialog.call_id} {tags(first, second)}", dialog.call_id)
        except Refused as refusal:
            log.error("%s", refusal)
            return refusal.code
        if answers is not None:
            answers.append(answer)
        return 1

    # ---- what they do
    def _manage(self, ctx: RouteContext, flags: str, address: str) -> int:
        if ctx.kind is Route.BRANCH_FAILURE:  # the failure route of the transaction will do it
            return 1
        message, method = ctx.message, ctx.message.cseq[1]
        if method not in _MANAGED:
            return -1
        if method in ("CANCEL", "BYE") or (isinstance(message, Response) and message.status >= 300):
            return self.rtpproxy_destroy(ctx, flags)
        if not has_sdp(message):
            return -1
        if isinstance(message, Response):
            asked = ctx.transaction.request if ctx.transaction is not None else None
            answers = method in ("PRACK", "UPDATE") or asked is None or has_sdp(asked)
            return self._force(ctx, flags, address, offer=not answers)
        if method == "INVITE" and ctx.kind is Route.FAILURE:
            return self.rtpproxy_destroy(ctx, flags)
        return self._force(ctx, flags, address, offer=method != "ACK")

    def _force(self, ctx: RouteContext, flags: str, address: str, *, offer: bool) -> int:
        try:
            self._exchange(ctx, flags, address, offer)
        except (Refused, ParseError) as error:
            log.error("%s", error)
            return error.code if isinstance(error, Refused) else -1
        return 1

    def _exchange(self, ctx: RouteContext, flags: str, address: str, offer: bool) -> None:
        """Ask a relay about each media of the description, and write its answers. Raise Refused, ParseError."""
        if not _FLAGS.fullmatch(flags):
            raise Refused(f"unknown flag in {flags!r}")
        if address and not is_host(address) and to_ip(address) is None:
            raise Refused(f"{address!r} is no address")
        lower, message = flags.lower(), ctx.message
        lookup = "l" in lower
        if lookup and not offer:
            raise Refused("the flag l makes sense in offers only")
        sdp = parse_sdp(str(message.body, "latin-1"), message.get("content-type") or "application/sdp")
        if sdp is None or not sdp.media:
            raise Refused("the message has no session description")
        dialog = self._dialog(ctx, re.sub(r"[zZ][0-9]*", "", flags))
        is_request = isinstance(message, Request)
        if is_request if lookup else is_request != offer:
            if not dialog.to_tag:
                raise Refused("there is no To tag")
            dialog = Dialog(dialog.call_id, dialog.whole_id, dialog.to_tag, dialog.from_tag)
        elif lookup and not dialog.to_tag:
            raise Refused("there is no To tag")
        mark = self.params.nortpproxy_str
        there = bool(mark) and re.search(rf"[\r\n]{re.escape(mark)}", sdp.raw) is not None
        if there and "f" not in lower:
            raise Refused("a relay is in the description already", _PROXIED)
        rewriting = Rewriting(sdp, "c" in lower, self._ice(ctx))
        options = _Options("U" if offer and not lookup else "L", flags)
        for number, stream in enumerate(streams_of(sdp), 1):
            if rewriting.candidates and "a=remote-candidates:" in sdp.text[stream.media.start : stream.media.end]:
                continue
            rewriting.rewrite(stream, self._ask(ctx, dialog, options, stream, number, address))
        if mark and not there:
            end = sdp.start + len(sdp.raw.rstrip("\r\n"))
            rewriting.splices.append((end, end, f"\r\n{mark}"))
        splice_body(message, ctx.edits, *rewriting.splices)

    def _ask(
        self, ctx: RouteContext, dialog: Dialog, options: _Options, stream: Stream, number: int, forced: str
    ) -> Answer:
        """Ask relay after relay until one answers. Raise Refused."""
        old = stream.old
        if old is None:
            raise Refused("a media without address")
        source = ctx.flow.host
        new, family = (old.text, old.family) if options.real else (source, 6 if ":" in source else 4)
        letters = options.of_family(old.family)
        answer = None
        while answer is None:
            proxy = self._proxy(ctx, dialog.call_id)
            command = letters + (options.repacketize if proxy.repacketizes else "")
            numbers = re.findall(r"[0-9]+", stream.media.payloads)
            if proxy.takes_payloads and numbers and "RTP/" in stream.media.transport.upper():
                command += f"c{','.join(numbers)}"
            command += f" {dialog.whole_id} {new} {stream.port} {dialog.from_tag};{number}"
            if dialog.to_tag:
                command += f" {dialog.to_tag};{number}"
                if letters[0] == "U" and self.params.timeout_socket:
                    command += f" {self.params.timeout_socket}"
            answer = self.proxies.ask(proxy, command, ctx.now)
        words = answer.split()
        if not words or to_port(words[0]) <= 0:
            raise Refused(f"the relay says {answer.strip()!r}")
        if len(words) > 1:
            family = 6 if words[2:] and words[2][0] == "6" else 4
        if old.is_null:
            return Answer(int(words[0]), "::" if family == 6 else "0.0.0.0", family)
        return Answer(int(words[0]), forced or (words[1] if len(words) > 1 else ctx.flow.listener.host), family)

    def _ice(self, ctx: RouteContext) -> int:
        """Return the priority of ICE candidates, 0 for none. Raise Refused."""
        name = avp_parameter("ice_candidate_priority_avp", self.params.ice_candidate_priority_avp)
        if not name:
            return 0
        values = ctx.shared.avps.get(name) or [2]
        value = values[0]
        if not isinstance(value, int) or not 0 <= value <= 2:
            raise Refused(f"ice_candidate_priority_avp: expected 0, 1 or 2, got {value!r}")
        return value

    def _dialog(self, ctx: RouteContext, flags: str) -> Dialog:
        """Return what names the call. Raise Refused."""
        message, branch = ctx.message, ""
        try:
            vias = [c for c in flags if c in "123"]
            if vias:
                which = int(vias[-1])
                which = which if which < 3 else 2 if isinstance(message, Response) else 1
                found = message.list("via")
                branch = Via(found[which - 1]).branch if len(found) >= which else ""
                if not branch:
                    raise Refused(f"there is no branch in Via {which}")
            elif "b" in flags and self.params.extra_id_pv:
                branch = self.services.variables.text(self.params.extra_id_pv)(ctx)
            from_tag, call_id = message.from_.tag, message.call_id
            to_tag = message.to.tag or ""
        except ParseError as error:
            raise Refused(str(error)) from None
        if not from_tag:
            raise Refused("there is no From tag")
        return Dialog(call_id, f"{call_id};{branch}" if branch else call_id, from_tag, to_tag)

    def _proxy(self, ctx: RouteContext, call_id: str) -> Proxy:
        """Return the relay of the call in the set that is chosen for the message. Raise Refused."""
        if self._chosen is not None and self._chosen[0] != ctx.message.raw:
            self._chosen = None
        proxy = self.proxies.choose(self._chosen[1] if self._chosen else 0, call_id, ctx.now)
        if proxy is None:
            raise Refused("there is no relay to be asked", _NO_PROXY)
        if self.params.rtp_inst_pvar:
            self.services.variables.put(ctx, self.params.rtp_inst_pvar, proxy.url)
        return proxy

    def _tell(self, ctx: RouteContext, command: str, call_id: str) -> str | None:
        """Ask the relay of the call. Raise Refused."""
        try:
            return self.proxies.ask(self._proxy(ctx, call_id), command, ctx.now)
        except Refused as refusal:
            raise Refused(str(refusal)) from None

    # ---- the operator
    @rpc("rtpproxy.list")
    def list_proxies(self) -> list[dict[str, Any]]:
        """List the relays."""
        return [
            {"setid": setid, "url": p.url, "index": p.index, "disabled": int(p.disabled), "weight": p.weight}
            for setid, proxies in self.proxies.sets.items()
            for p in proxies
        ]

    @rpc("rtpproxy.enable")
    def enable(self, url: str, enable: int) -> None:
        """Enable (1) the relay with this URL, or disable (0) it until it is enabled."""
        found = [p for proxies in self.proxies.sets.values() for p in proxies if p.url == url]
        if not found:
            raise RpcError(404, "RTPProxy not found")
        for proxy in found:
            proxy.disabled = proxy.permanent = not enable
            proxy.recheck = 0.0


class _Options:
    """The letters behind a command: what the flags say, and what the families of the addresses add."""

    def __init__(self, command: str, flags: str) -> None:
        self._letters = command + "".join("S" if c in "wW" else c.upper() for c in flags if c in "aAiIeEwW")
        self.real = any(c in "aArR" for c in flags)
        self.repacketize = "".join(z.upper() for z in re.findall(r"[zZ][0-9]*", flags))
        self._bridge = "x" in flags.lower()

    def of_family(self, family: int) -> str:
        """Return the letters for a media of this family; they stay for those behind it, as in Kamailio."""
        if self._bridge:
            self._letters += "EI" if family == 6 else "IE"
            self._bridge = False
        if family == 6:
            self._letters += "6"
        return self._letters
