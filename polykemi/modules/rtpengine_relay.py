"""rtpengine: one question to a relay: put together from the message and the script's flags, asked, answered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.splice import splice_body
from polykemi.live import live
from polykemi.modules.base import Module, Services
from polykemi.modules.rtpengine_bencode import Bencoded
from polykemi.modules.rtpengine_flags import BadFlag, Flags, Question, via_branch
from polykemi.modules.rtpengine_nodes import Calls, Node, Nodes, NodeSet, Patience, checked_url, parse_set
from polykemi.modules.rtpengine_quality import QualityParams
from polykemi.pv.classes.avp import avp_parameter
from polykemi.sip.header import Via
from polykemi.sip.message import Request
from polykemi.sip.multipart import boundary_of, media_type, parts_of

log = logging.getLogger("polykemi.rtpengine")

_MOST_NODES: Final = 30  # asked for one call
_BUSY: Final = ("Parallel session limit reached", "Ran out of ports")  # errors after which the next relay is asked
_ONE_SIDED: Final = (
    "block ",
    "unblock ",
    "silence ",
    "unsilence ",
    "start forwarding",
    "stop forwarding",
)  # beginnings
_FRAGMENT: Final = "application/trickle-ice-sdpfrag"


@dataclass(frozen=True, slots=True)
class RtpengineParams(QualityParams):
    """Kamailio's names and defaults; ``rtpengine_sock`` has one definition for each set, ``1 == udp:10.0.0.1:22222=2 ...``.

    ``db_url``: when it is not empty the relays stand in the table ``table_name`` of the server's own database.
    """

    rtpengine_sock: tuple[str, ...] = ()
    rtpengine_disable_tout: int = live(60, "seconds that a dead relay is left alone")
    aggressive_redetection: int = live(1, "1: when all relays of a set are dead they are asked before their time")
    rtpengine_tout_ms: int = live(1000, "milliseconds that a relay has for an answer, at each try")
    rtpengine_retr: int = live(5, "how often a relay is asked again")
    queried_nodes_limit: int = live(_MOST_NODES, "relays of a set that are asked for one call")
    rtpengine_allow_op: int = 0
    db_url: str = ""
    table_name: str = "rtpengine"
    setid_col: str = "setid"
    url_col: str = "url"
    weight_col: str = "weight"
    disabled_col: str = "disabled"
    extra_id_pv: str = ""
    setid_avp: str = ""
    rtp_inst_pvar: str = ""
    write_sdp_pv: str = ""
    read_sdp_pv: str = ""
    media_duration: str = ""
    hash_table_tout: int = 3600  # seconds that a call is remembered
    hash_table_size: int = 256  # without effect
    setid_default: int = 0
    hash_algo: int = 0  # 0: octets of the Call-ID added up, 1: SHA-1, 2: CRC-32

    def __post_init__(self) -> None:
        for definition in self.rtpengine_sock:
            parse_set(definition, self.setid_default)
        for name in ("rtp_inst_pvar", "write_sdp_pv", "read_sdp_pv", "media_duration"):
            value = getattr(self, name)
            if value and value[0] != "$":
                raise ValueError(f"{name}: expected a variable, got {value!r}")
        avp_parameter("setid_avp", self.setid_avp)
        if self.hash_algo not in (0, 1, 2):
            raise ValueError(f"hash_algo: expected 0, 1 or 2, got {self.hash_algo}")


class Call(NamedTuple):
    """What a function of the script asks for. ``branch``: the relay itself reads the flags (functions newer than 5.6)."""

    command: str
    flags: str = ""
    branch: str | None = None
    newer: bool = False


class Sdp(NamedTuple):
    """A session description and where it stands in the body; ``start`` -1: it came from a variable."""

    text: str
    start: int = -1
    end: int = -1
    fragment: bool = False


class Refused(Exception):
    """The function answers -1; the text says why."""


Work = Callable[["NodeSet | None", bool], int]


class RtpengineRelay(Module):
    """The relays, what the script has chosen of them, and the questions."""

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        p: RtpengineParams = self.params
        self._rows: list[tuple[Any, ...]] = []  # of the table
        self._patience = _patience(p)
        self.nodes = Nodes(services.peers, self._patience, f"{services.ids.unique()[:12]}")
        self.on_relays = Calls(p.hash_table_tout)
        self._chosen: tuple[bytes, NodeSet, NodeSet | None] | None = None  # for which message, by set_rtpengine_set
        self.seen = 0.0  # seconds since the epoch: when relays were last asked

    def params_changed(self) -> None:
        """Wait for relays as the parameters have it now."""
        self._patience = self.nodes.patience = _patience(self.params)
        self._between: str | None = None  # what the first of two sets has made of the description

    def start(self, now: float) -> None:
        """Read the relays and ask each whether it is there. Raise DataError."""
        p: RtpengineParams = self.params
        self.seen = now
        if p.db_url:
            self.read_table()
        else:
            for definition in p.rtpengine_sock:
                setid, found = parse_set(definition, p.setid_default)
                for url, weight in found:
                    self.nodes.add(setid, url, weight)
        for _, node in self.nodes:
            self.nodes.probe(node, now)

    def read_table(self) -> None:
        """Read the table of relays anew. Raise DataError, all stays as it is then."""
        self._use(self._read())

    def reread(self, now: float) -> Callable[[], None] | None:
        """Read the table of relays anew, where there is one; when it has not changed their states stay. Raise DataError."""
        rows = self._read() if self.params.db_url else self._rows
        if rows == self._rows:
            return None

        def use() -> None:
            self._use(rows)
            for _, node in self.nodes:
                self.nodes.probe(node, now)

        return use

    def _read(self) -> list[tuple[Any, ...]]:
        p: RtpengineParams = self.params
        rows = self.services.database.select(p.table_name, [p.setid_col, p.url_col, p.weight_col, p.disabled_col])
        for row in rows:
            try:
                checked_url(str(row[1]))
            except ValueError as error:
                raise DataError(f"rtpengine: {p.table_name}: {error}") from None
        return rows

    def _use(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows
        self.nodes.hide()
        for setid, url, weight, disabled in rows:
            self.nodes.add(int(setid), url, int(weight), disabled=bool(disabled))

    # ---- sets
    def choose_sets(self, ctx: RouteContext, first: int, second: int | None) -> int:
        """Take one or two sets for what the script asks about this message: 1, or -1 when there is no such set."""
        sets = [self.nodes.sets.get(number) for number in (first, second) if number is not None]
        if sets[0] is None or sets[-1] is None:
            log.error("there is no set %s", first if sets[0] is None else second)
            return -1
        self._chosen = ctx.message.raw, sets[0], sets[1] if len(sets) > 1 else None
        return 1

    def through_sets(self, ctx: RouteContext, direction: int, work: Work) -> int:
        """Do ``work`` with the set of this direction, and with the other when the script has chosen two."""
        self._between, self.seen = None, ctx.now
        chosen = self._chosen
        if chosen is None or chosen[0] != ctx.message.raw:
            self._chosen, first, second = None, None, None
        else:
            _, first, second = chosen
        more = second is not None and second is not first
        order = [first, second] if direction == 1 or second is None else [second, first]
        try:
            result = work(self._set_for(ctx, order[0]), more)
            if result >= 0 and more:
                result = work(self._set_for(ctx, order[1]), not more)
        except Refused as refusal:
            log.error("%s", refusal)
            return -1
        finally:
            self._between = None
        return result

    def _set_for(self, ctx: RouteContext, chosen: NodeSet | None) -> NodeSet | None:
        """Return the set of ``setid_avp``, else the chosen one, else the default one. Raise Refused."""
        values = ctx.shared.avps.get(avp_parameter("setid_avp", self.params.setid_avp))
        if not values:
            return chosen or self.nodes.sets.get(self.params.setid_default)
        if isinstance(values[0], str):
            raise Refused("setid_avp: the value is no integer")
        found = self.nodes.sets.get(values[0])
        if found is None:
            raise Refused(f"setid_avp: there is no set {values[0]}")
        return found

    # ---- questions
    def ask(self, ctx: RouteContext, nodes: NodeSet | None, call: Call) -> tuple[dict[str, Bencoded], Sdp | None]:
        """Ask a relay of the set; return its answer, which says ok, and the description that was sent. Raise Refused."""
        try:
            question, call_id, branch, sdp = self._question(ctx, call)
        except (BadFlag, ParseError) as error:
            raise Refused(str(error)) from None
        if nodes is None:
            raise Refused("no set of relays is chosen, and there is no default one")
        node, answer = self._put(ctx, nodes, question, call_id, branch)
        deletes = question["command"] == "delete"
        if self.on_relays.find(call_id, branch, any_branch=deletes, now=ctx.now) is None:
            self.on_relays.remember(call_id, branch, node, ctx.now)
        if deletes:
            self.on_relays.forget(call_id, branch)
        if answer["result"] != "ok":
            raise Refused(f"{node.url}: {answer['result']}")
        return answer, sdp

    def _put(
        self, ctx: RouteContext, nodes: NodeSet, question: Question, call_id: str, branch: str
    ) -> tuple[Node, dict[str, Bencoded]]:
        """Ask relay after relay until one has a word to say. Raise Refused."""
        queried: list[Node] = []
        while len(queried) < self._patience.nodes_limit:
            node = self.on_relays.find(call_id, branch, any_branch=question["command"] == "delete", now=ctx.now)
            if node is None or node not in nodes.nodes:
                node = self.nodes.choose(nodes, call_id, queried, ctx.now)
            if node is None or not self.nodes.usable(node):
                raise Refused(f"no relay of set {nodes.id} can be asked about {call_id}")
            answer = self.nodes.ask(node, question)
            queried.append(node)
            if answer is None:
                self.nodes.disable(node, ctx.now)
                continue
            self.put(ctx, self.params.rtp_inst_pvar, node.url)
            result = answer.get("result")
            reason = answer.get("error-reason") if result == "error" else answer.get("message")
            if result == "load limit" or (result == "error" and reason in _BUSY):
                log.warning("%s: %s: trying the next one", node.url, reason or result)
            elif result == "error" or not isinstance(result, str):
                raise Refused(f"{node.url}: {reason or 'an answer that makes no sense'}")
            else:
                return node, answer
        raise Refused(f"{len(queried)} relays were asked")

    def _question(self, ctx: RouteContext, call: Call) -> tuple[Question, str, str, Sdp | None]:
        """Return the question, the Call-ID and the via-branch in it, and the description. Raise ParseError, BadFlag, Refused."""
        message, command = ctx.message, call.command
        from_tag = message.from_.tag
        if not from_tag:
            raise Refused("there is no From tag")
        with_sdp = command in ("offer", "answer")
        question: Question = {"supports": ["load limit"]}
        sdp = None
        if with_sdp or command == "subscribe answer":
            sdp = self._sdp(ctx)
            question["sdp"] = sdp.text if self._between is None else self._between
        own_tag = call.branch is not None or command not in ("delete", "subscribe request")
        flags = Flags(command, with_sdp, message.call_id, from_tag, message.to.tag or "", own_tag)
        if call.branch is None:
            flags.read(call.flags)
        if sdp is not None and sdp.fragment:
            flags.words.append("fragment")
        flags.put(question)
        if call.branch is None:
            which = flags.via_branch
        else:
            which = "" if call.branch == "none" else via_branch(call.branch)
        branch = self._branch(ctx, which) if which else ""
        if branch:
            question["via-branch"] = branch
        if call.branch is None:
            question["received-from"] = ["IP6" if ":" in ctx.flow.host else "IP4", ctx.flow.host]
        _put_tags(question, flags, isinstance(message, Request))
        question["command"] = flags.command
        if call.newer or call.branch is not None:
            question["sip-message-type"] = "sip_request" if isinstance(message, Request) else "sip_reply"
        if call.branch is not None:
            question["rtpp-flags"] = call.flags
        return question, flags.call_id, branch, sdp

    def _sdp(self, ctx: RouteContext) -> Sdp:
        """Return the description of the message: its body, the first one of a multipart body, or what read_sdp_pv holds."""
        if name := self.params.read_sdp_pv:
            value = self.services.variables.getters[name](ctx)
            return Sdp("" if value is None else str(value))
        text, content_type = str(ctx.message.body, "latin-1"), ctx.message.get("content-type")
        kind = media_type(content_type or "") if content_type is not None else "application/sdp"
        if not text:
            raise Refused("the message has no body")
        if kind in ("application/sdp", _FRAGMENT):
            return Sdp(text, 0, len(text), kind == _FRAGMENT)
        if kind == "multipart/mixed":
            for part in parts_of(text, boundary_of(content_type or "")):
                if media_type(part.content_type) == "application/sdp":
                    inside = text[part.body : part.end].removesuffix("\n").removesuffix("\r")
                    return Sdp(inside, part.body, part.body + len(inside))
        raise Refused(f"a body of type {content_type} is no session description")

    def _branch(self, ctx: RouteContext, which: str) -> str:
        """Return the text that tells this branch from others: of a Via, of extra_id_pv or of the branch to come. Raise Refused."""
        is_request = isinstance(ctx.message, Request)
        if which == "auto":
            which = "1" if is_request else "2"
        elif which.startswith("auto-"):
            which = which.removeprefix("auto-") if is_request else "1"
        found = ""
        if which in ("1", "2"):
            vias = ctx.message.list("via")
            found = Via(vias[int(which) - 1]).branch if len(vias) >= int(which) else ""
        elif which == "extra" and self.params.extra_id_pv:
            found = self.services.variables.text(self.params.extra_id_pv)(ctx)
        elif which == "next":
            found = ctx.branch.key if ctx.branch is not None else self.services.ids.coming_branch()
        if not found:
            raise Refused(f"via-branch: there is no {which}")
        return found

    # ---- answers
    def offer_answer(self, ctx: RouteContext, nodes: NodeSet | None, more: bool, call: Call) -> int:
        """Exchange the description; what the relay makes of it goes into the body, or into write_sdp_pv."""
        answer, sdp = self.ask(ctx, nodes, call)
        new = answer.get("sdp")
        if not isinstance(new, str) or sdp is None:
            raise Refused("the answer has no description")
        if more:
            self._between = new
        elif self.params.write_sdp_pv:
            self.put(ctx, self.params.write_sdp_pv, new)
        else:
            end = len(ctx.message.body) if sdp.start < 0 else sdp.end
            splice_body(ctx.message, ctx.edits, (max(sdp.start, 0), end, new))
        return 1

    def put(self, ctx: RouteContext, variable: str, value: str) -> bool:
        """Set a variable that a parameter names, if it names one."""
        return bool(variable) and self.services.variables.put(ctx, variable, value)


def _put_tags(question: Question, flags: Flags, is_request: bool) -> None:
    """Say who asks: the tags as they stand, or the other way round for an answer from the other side. Raise Refused."""
    command, to_tag = flags.command, flags.to_tag
    if command.startswith(_ONE_SIDED):  # they name a side only when the script says so
        if flags.directional:
            question["from-tag"] = flags.from_tag
        return
    if command in ("subscribe request", "subscribe answer", "unsubscribe"):
        if command == "subscribe request" and flags.from_tags:
            question["from-tags"] = flags.from_tags
        if flags.send_to_tag and to_tag:
            question["to-tag"] = to_tag
        return
    forward = command != "answer" if is_request else command in ("answer", "delete")
    if forward or flags.directional or command == "connect":
        question["from-tag"] = flags.from_tag
        if flags.send_to_tag and to_tag:
            question["to-tag"] = to_tag
    elif to_tag:
        question["from-tag"], question["to-tag"] = to_tag, flags.from_tag
    else:
        raise Refused("there is no To tag")


def _patience(p: RtpengineParams) -> Patience:
    return Patience(
        p.rtpengine_retr,
        p.rtpengine_tout_ms / 1000,
        p.rtpengine_disable_tout,
        min(p.queried_nodes_limit, _MOST_NODES),
        bool(p.aggressive_redetection),
        p.hash_algo,
        p.rtpengine_allow_op,
    )
