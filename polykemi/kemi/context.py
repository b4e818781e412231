"""What a route block sees and changes: the message, its flow, the destination set, flags, variables, and the outcome."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

from polykemi.errors import NoRequest
from polykemi.kemi.route import Route
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Edits, Message, Request, Response
from polykemi.transaction.target import Shared, Target

if TYPE_CHECKING:
    from polykemi.transaction.forking import Transaction

T = TypeVar("T")

# A process is work that may need route blocks run on its way: a generator that yields a RouteContext for each block and
# is resumed when the block has run. The core's handling of a message is one, and so is an export such as t_relay.
Process = Generator["RouteContext", None, T]


class Exit(BaseException):
    """KSR.x.exit() and KSR.x.drop(): ends the running route block, with success. Not an error."""


class RouteContext:
    """One run of a route block on one message. Everything that an export needs of "the current message" is here."""

    __slots__ = (
        "bflags",
        "branch",
        "branch_index",
        "branches",
        "cache",
        "callback",
        "destination",
        "dropped",
        "dst_uri",
        "edits",
        "error",
        "event",
        "flow",
        "force_listener",
        "force_rport",
        "instance",
        "kind",
        "message",
        "now",
        "path",
        "replied",
        "reply",
        "reply_headers",
        "reply_status",
        "retcode",
        "ruid",
        "ruri",
        "sflags",
        "shared",
        "transaction",
        "wire",
    )

    def __init__(self, kind: Route, callback: str, message: Message, flow: Flow, now: float) -> None:
        self.kind = kind
        self.callback = callback  # the name of the script's function
        self.event = ""  # evname, the argument of event route blocks and of those that t_continue runs
        self.message = message  # of a failure route: the request
        self.flow = flow  # where the message came from
        self.now = now  # seconds since the epoch
        self.ruri: str = message.uri if isinstance(message, Request) else ""  # new URI, the Request-URI at first
        self.dst_uri = ""  # $du, "" when not set
        self.path = ""  # Route values that go on top (registrar's Path), comma-separated
        self.instance = ""
        self.ruid = ""
        self.force_listener: Listener | None = None  # $fs
        self.force_rport = False
        self.branches: list[Target] = []  # destination set besides ruri
        self.edits = Edits()
        self.reply_headers: list[str] = []  # header lines that go into replies to this request (hdr.append_to_reply)
        self.shared = Shared()
        self.bflags = 0  # branch flags of the first branch (of this branch in branch routes)
        self.sflags = 0  # script flags, cleared for each block
        self.transaction: Transaction | None = None
        self.branch: Any = None  # transaction.forking.Branch of branch, onreply and branch failure routes
        self.branch_index = 0  # $T_branch_idx
        self.reply: Response | None = None  # failure route: the winning reply, None for one of our own (408)
        self.reply_status = 0  # failure, onreply and reply routes: its status
        self.wire: bytes = b""  # onsend: what is about to be sent
        self.destination: Flow | None = None  # onsend: where it goes
        self.dropped = False  # set_drop() was called
        self.replied = False  # a reply to this request was put into the outbox
        self.error: Exception | None = None  # the script failed
        self.retcode = 1
        self.cache: dict[str, Any] = {}  # exports keep here what holds for this run (parsed credentials, ...)

    @property
    def request(self) -> Request:
        """The request: the message itself, or the transaction's for blocks that run on a reply. Raise NoRequest."""
        if isinstance(self.message, Request):
            return self.message
        if self.transaction is not None:
            return self.transaction.request
        raise NoRequest("no request here")

    @property
    def method(self) -> str:
        """The method; for replies that of CSeq."""
        message = self.message
        return message.method if isinstance(message, Request) else message.cseq[1]


class Current:
    """The context of the block that runs now; one cell, shared by all engines. None outside of message processing."""

    __slots__ = ("ctx",)

    def __init__(self) -> None:
        self.ctx: RouteContext | None = None
