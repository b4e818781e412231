"""What a line says of the message, the route block and the script, on each engine and off the beaten track."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi.kemi.faked import event_context
from polykemi.logs.fields import Fields
from polykemi.logs.formats import LineFormat
from polykemi.sip.flow import Listener
from polykemi.testing import ServerUnderTest
from tests.support import message, request_context

SCRIPTS = {
    "lua": (
        "a.lua",
        """
function ksr_request_route()
    KSR.info("in the request")
    print("printed")
    KSR.tm.t_on_branch("ksr_branch")
    KSR.tm.t_on_failure("ksr_failure")
    KSR.tm.t_relay()
end
function ksr_branch() KSR.xlog.xnotice("in the branch $rm") end
function ksr_failure() KSR.warn("it failed") local x = nil; x.y = 1 end
""",
    ),
    "js": (
        "a.js",
        """
function ksr_request_route() {
    KSR.info("in the request");
    console.log("printed");
    KSR.tm.t_on_branch("ksr_branch");
    KSR.tm.t_on_failure("ksr_failure");
    KSR.tm.t_relay();
}
function ksr_branch() { KSR.xlog.xnotice("in the branch $rm"); }
function ksr_failure() { KSR.warn("it failed"); const x = null; x.y = 1; }
""",
    ),
    "python": (
        "a.py",
        """import KSR
def ksr_request_route(msg):
    KSR.info("in the request")
    KSR.info("printed")
    KSR.tm.t_on_branch("ksr_branch")
    KSR.tm.t_on_failure("ksr_failure")
    KSR.tm.t_relay()

def ksr_branch(msg): KSR.xlog.xnotice("in the branch $rm")
def ksr_failure(msg): KSR.warn("it failed"); None.y = 1
""",
    ),
}
INVITE = message(
    "INVITE sip:bob@192.0.2.20 SIP/2.0", "Max-Forwards: 9", call_id="c1", from_="<sip:alice@example.test>;tag=1"
)
FAILED = (
    b"SIP/2.0 486 Busy Here\r\n%s\r\nFrom: <sip:alice@example.test>;tag=1\r\nTo: <sip:bob@example.test>;tag=2\r\n"
    b"Call-ID: c1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
)


class Written(logging.Handler):
    """Keeps the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = Fields()
        self.lines: list[str] = []
        self._format = LineFormat("{level} {logger}: ", self.fields)

    def emit(self, record: logging.LogRecord) -> None:
        self.fields.here()  # JavaScript has a thread of its own
        self.lines.append(self._format(record))

    def attach(self, server: ServerUnderTest, prefix: str = "") -> None:
        router = server.node.router
        self.fields.attach(router.context, router.where, router.services.variables.text(prefix) if prefix else None)


@pytest.fixture
def written() -> Iterator[Written]:
    handler = Written()
    logger = logging.getLogger("polykemi")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize("engine", SCRIPTS)
def test_lines_name_message_block_and_place(engine: str, tmp_path: Path, written: Written) -> None:
    name, source = SCRIPTS[engine]
    script = tmp_path / name
    script.write_text(source)
    with ServerUnderTest({engine: script}) as server:
        written.attach(server)
        relayed = server.receive(INVITE, "192.0.2.10:5062")[-1].data
        vias = b"\r\n".join(line for line in relayed.split(b"\r\n") if line.startswith(b"Via:"))
        server.receive(FAILED % vias, "192.0.2.20:5060")
    head = "call_id=c1 from_user=alice method=INVITE"
    come = f"{head} src=udp:192.0.2.10:5062"
    assert written.lines[:4] == [
        f"INFO polykemi.script: in the request | {come} route=request_route at={script}:3 version=1",
        f"INFO polykemi.script: printed | {come} route=request_route at={script}:4 version=1",
        f"NOTICE polykemi.script: in the branch INVITE | {come} route=branch_route:ksr_branch at={script}:9 version=1",
        f"WARNING polykemi.script: it failed | {head} status=486 src=udp:192.0.2.10:5062 route=failure_route:ksr_failure at={script}:10 version=1",
    ]
    error = written.lines[4].split("\n")[0]
    assert error.startswith(f"ERROR polykemi.router: script error in failure_route ksr_failure: {script}:10: ")
    assert error.endswith(
        f" | {head} status=486 src=udp:192.0.2.10:5062 route=failure_route:ksr_failure at={script}:10 version=1"
    )


def test_an_exception_inside_of_a_function_names_it(tmp_path: Path, written: Written) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("a fault of the server's own")

    script = tmp_path / "a.lua"
    script.write_text('function ksr_request_route() KSR.ipops.dns_query("example.test", "here") end')
    with ServerUnderTest({"lua": script}, dns=Broken()) as server:  # type: ignore[arg-type]
        written.attach(server)
        server.receive(INVITE, "192.0.2.10:5062")
    (line,) = [line for line in written.lines if "script error" in line]
    assert line.split("\n")[0].endswith(f" at={script}:1 version=1 call=KSR.ipops.dns_query")


def test_accounting_names_the_call_when_no_block_runs(tmp_path: Path, written: Written) -> None:
    script = tmp_path / "a.lua"
    script.write_text("function ksr_request_route() KSR.setflag(1) KSR.setflag(2) KSR.tm.t_relay() end")
    flags = {"log_flag": 1, "failed_transaction_flag": 2}
    with ServerUnderTest({"lua": script}, modules={"acc": flags}) as server:
        written.attach(server)
        relayed = server.receive(INVITE, "192.0.2.10:5062")[-1].data
        vias = b"\r\n".join(line for line in relayed.split(b"\r\n") if line.startswith(b"Via:"))
        server.receive(FAILED % vias, "192.0.2.20:5060")
    (line,) = [line for line in written.lines if "polykemi.acc" in line]
    assert line.endswith(" | call_id=c1 from_user=alice method=INVITE status=486 src=udp:192.0.2.10:5062 version=1")


def test_a_prefix_is_evaluated_on_the_message(tmp_path: Path, written: Written) -> None:
    script = tmp_path / "a.lua"
    script.write_text('function ksr_request_route() KSR.info("hello") end')
    with ServerUnderTest({"lua": script}) as server:
        written.attach(server, "{$mt $hdr(CSeq) $ci} ")
        server.receive(INVITE, "192.0.2.10:5062")
        logging.getLogger("polykemi.script").info("about nothing")
    assert written.lines[0].startswith("INFO polykemi.script: {1 1 INVITE c1} hello | ")
    assert written.lines[1] == "INFO polykemi.script: about nothing"


def line(fields: Fields, **more: object) -> str:
    record = logging.LogRecord("polykemi.x", logging.INFO, "", 0, "text", (), None)
    record.__dict__.update(more)
    return LineFormat("", fields)(record)


def test_without_a_message_there_are_no_fields() -> None:
    assert line(Fields()) == "text"


def test_an_event_has_no_message_to_tell_of() -> None:
    fields = Fields()
    ctx = event_context("ksr_event", "htable:expired:t", Listener("udp", "192.0.2.1", 5060), 1.0)
    fields.attach(lambda: ctx, lambda: "a.lua:1")
    assert line(fields) == "text | route=event_route:ksr_event at=a.lua:1"


def test_a_record_may_name_the_message_that_it_is_about() -> None:
    ctx = request_context(INVITE)
    assert line(Fields(), about=ctx).startswith("text | call_id=c1 from_user=alice method=INVITE src=")


def test_a_message_that_cannot_be_read_has_the_fields_that_can() -> None:
    ctx = request_context(message("INVITE sip:bob@example.test SIP/2.0", from_="<sip:", call_id="c1"))
    assert line(Fields(), about=ctx) == "text | call_id=c1 method=INVITE src=udp:192.0.2.10:5060 route=request_route"


def test_only_what_is_wanted_is_told() -> None:
    assert line(Fields(("method",)), about=request_context(INVITE)) == "text | method=INVITE"
    assert line(Fields(()), about=request_context(INVITE)) == "text"


def test_other_threads_know_nothing_of_the_message() -> None:
    fields, lines = Fields(), list[str]()
    ctx = request_context(INVITE)
    fields.attach(lambda: ctx, lambda: "a.lua:1")
    thread = threading.Thread(target=lambda: lines.append(line(fields)))
    thread.start()
    thread.join()
    assert lines == ["text"]


def test_what_is_asked_for_a_line_may_log_itself(written: Written) -> None:
    def where() -> str:
        logging.getLogger("polykemi.script").warning("while asked")
        return "a.lua:1"

    ctx = request_context(INVITE)
    written.fields.attach(lambda: ctx, where)
    logging.getLogger("polykemi.script").info("asks")
    assert [line.partition(" | ")[0] for line in written.lines] == [
        "WARNING polykemi.script: while asked",
        "INFO polykemi.script: asks",
    ]


def test_a_line_is_written_whatever_goes_wrong_with_its_fields() -> None:
    fields = Fields()
    fields.attach(lambda: request_context(INVITE), lambda: str(1 / 0))
    assert line(fields) == "text"
