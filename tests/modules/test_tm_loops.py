"""tm, RFC 5393: two servers that fork to each other do not multiply a request; spirals pass."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.sip.flow import Listener
from polykemi.testing import Sent, ServerUnderTest
from polykemi.transaction.target import Target
from tests.modules.tm_driver import ALICE, BOB, BOB_URI, CAROL, CAROL_URI, Proxy, answer, find, request, to, whats

ONE, OTHER = "192.0.2.1", "192.0.2.2"
SCRIPT = """
function ksr_request_route()
    if KSR.is_CANCEL() or KSR.is_ACK() then KSR.tm.t_relay() return end
    if KSR.maxfwd.process_maxfwd(10) < 0 then KSR.sl.send_reply(483, "Too Many Hops") return end
    local user = KSR.pv.get("$rU")
    %s
    KSR.tm.t_relay()
end
"""
SAME = 'KSR.seturi("sip:a@{0}") KSR.corex.append_branch_uri("sip:b@{0}")'
ANOTHER = 'KSR.seturi("sip:" .. user .. "0@{0}") KSR.corex.append_branch_uri("sip:" .. user .. "1@{0}")'


class Pair:
    """Two servers that send each user of theirs to two users of the other."""

    def __init__(self, directory: Path, fork: str, **tm: int) -> None:
        self.servers = {}
        for host, peer in ((ONE, OTHER), (OTHER, ONE)):
            script = directory / f"{host}.lua"
            script.write_text(SCRIPT % fork.format(peer))
            self.servers[host] = ServerUnderTest(
                {"lua": script}, listeners=[Listener("udp", host, 5060)], modules={"tm": tm}
            )
        self.invites = 0
        self.answers: list[str] = []  # final ones, to the caller

    def call(self, most: int) -> None:
        """Call one of them, until all is quiet or ``most`` INVITEs have been sent."""
        on_the_way = deque([(ONE, ALICE[0], request("INVITE", uri=f"sip:u@{ONE}").encode())])
        while on_the_way and self.invites < most:
            host, source, data = on_the_way.popleft()
            for sent in self.servers[host].receive(data, f"{source}:5060"):
                self.take(sent)
                if sent.flow.host in self.servers:
                    on_the_way.append((sent.flow.host, host, sent.data))

    def take(self, sent: Sent) -> None:
        self.invites += sent.data.startswith(b"INVITE")
        if sent.flow.host == ALICE[0] and "SIP/2.0 1" not in sent.start_line:
            self.answers.append(sent.start_line)

    def close(self) -> None:
        for server in self.servers.values():
            server.close()


def pair(directory: Path, fork: str, most: int, **tm: int) -> Pair:
    """Return the pair after a call."""
    servers = Pair(directory, fork, **tm)
    try:
        servers.call(most)
    finally:
        servers.close()
    return servers


def test_without_its_bounds_a_fork_to_each_other_multiplies(tmp_path: Path) -> None:
    assert pair(tmp_path, SAME, 1000, loop_detection=0, max_breadth=0).invites >= 1000


def test_a_loop_is_found_where_the_request_comes_back_the_same_way(tmp_path: Path) -> None:
    servers = pair(tmp_path, SAME, 1000, max_breadth=0)
    assert servers.invites == 2 + 4 + 8 + 16  # both see a and b twice: from the caller or as the first, and then again
    assert servers.answers == ["SIP/2.0 482 Loop Detected"]


def test_max_breadth_bounds_what_no_loop_detection_finds(tmp_path: Path) -> None:
    servers = pair(tmp_path, ANOTHER, 1000)
    assert servers.invites <= 60 * 6
    assert servers.answers == ["SIP/2.0 440 Max-Breadth Exceeded"]


def invite(*extra: str, **fields: str) -> str:
    """Return an INVITE."""
    return request("INVITE", *extra, **fields)  # type: ignore[arg-type]


def breadths(proxy: Proxy, text: str) -> list[str | None]:
    """Return Max-Breadth of what is sent for ``text``."""
    return [s.message.get("max-breadth") for s in proxy.receive(text, ALICE) if s.what == "INVITE"]


def test_max_breadth_is_shared_out_among_parallel_branches() -> None:
    three = to(BOB_URI, CAROL_URI, "sip:dave@192.0.2.40")
    assert breadths(Proxy(three), invite()) == ["20", "20", "20"]
    assert breadths(Proxy(three), invite("Max-Breadth: 8")) == ["3", "3", "2"]
    assert breadths(Proxy(three), invite("Max-Breadth: 8", "Max-Breadth: 9")) == ["3", "3", "2"]
    assert breadths(Proxy(three, tm={"max_breadth": 0}), invite("Max-Breadth: 2")) == ["2", "2", "2"]
    assert breadths(Proxy(to(BOB_URI)), invite("Max-Breadth: 2")) == ["2"]
    assert breadths(Proxy(to(BOB_URI)), invite()) == [None]


@pytest.mark.parametrize(("breadth", "answer_"), [("1", "440 INVITE"), ("0", "440 INVITE"), ("many", "400 INVITE")])
def test_a_fork_with_too_little_breadth_is_refused(breadth: str, answer_: str) -> None:
    p = Proxy(to(BOB_URI, CAROL_URI))
    assert whats(p.receive(invite(f"Max-Breadth: {breadth}"), ALICE)) == ["100 INVITE", answer_]


def test_serial_forking_has_all_of_max_breadth_for_each_branch() -> None:
    def failed(p: Proxy, ctx: RouteContext) -> None:
        ctx.ruri = CAROL_URI
        p.relay(ctx)

    p = Proxy(to(BOB_URI, failure="failed"), failed=failed)
    first = find(p.receive(invite("Max-Breadth: 1"), ALICE), "INVITE")
    second = find(p.receive(answer(first, 486), BOB), "INVITE")
    assert second.message.get("max-breadth") == "1"


def test_a_branch_that_comes_beside_a_pending_one_has_what_that_left() -> None:
    def branch_failed(p: Proxy, ctx: RouteContext) -> None:
        ctx.branches = [Target("sip:dave@192.0.2.40")]
        p.relay(ctx)

    p = Proxy(to(BOB_URI, CAROL_URI, branch_failure="failed"), failed=branch_failed)
    out = p.receive(invite("Max-Breadth: 5"), ALICE)
    later = find(p.receive(answer(find(out, "INVITE", BOB), 486), BOB), "INVITE")
    assert later.message.get("max-breadth") == "3"  # Carol has 2


def loops(first: str, again: str, source: tuple[str, int] = BOB) -> list[str]:
    """Return what leaves when what was forked for ``first`` comes back with the start line and the lines of ``again``."""
    p = Proxy(to(BOB_URI, CAROL_URI))
    forked = find(p.receive(first, ALICE), "INVITE", BOB)
    vias = [line for name, line in zip(forked.message.names, forked.message.lines, strict=True) if name == "via"]
    head, _, rest = again.partition("\r\nVia:")
    came = "\r\n".join([head, "Via: SIP/2.0/UDP 192.0.2.20;branch=z9hG4bKback", *vias, rest.partition("\r\n")[2]])
    return whats(p.receive(came, source))


def test_what_comes_back_with_the_same_request_uri_from_the_same_place_is_a_loop() -> None:
    assert "482 INVITE" in loops(invite(), invite(), ALICE)


@pytest.mark.parametrize(
    "again",
    [
        invite(uri="sip:carol@example.test"),
        invite("Route: <sip:192.0.2.77;lr>"),
        invite("Proxy-Authorization: Digest x=y"),
        invite(to_tag="x"),
    ],
)
def test_a_spiral_is_no_loop(again: str) -> None:
    assert "482 INVITE" not in loops(invite(), again, ALICE)
    assert "482 INVITE" not in loops(invite(), invite(), CAROL)  # from elsewhere: the script may send it elsewhere


def test_a_retransmission_is_no_loop_and_two_calls_do_not_see_each_other() -> None:
    p = Proxy(to(BOB_URI, CAROL_URI))
    p.receive(invite(), ALICE)
    assert whats(p.receive(invite(), ALICE)) == ["100 INVITE"]
    assert whats(p.receive(invite(branch="other"), ALICE)) == ["100 INVITE", "INVITE", "INVITE"]
