"""rtpengine: what relays say and do not say, who is asked next, and what an operator sees of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.rtpengine import Rtpengine
from polykemi.modules.rtpengine_bencode import Bencoded, decode, encode
from polykemi.modules.rtpengine_nodes import parse_set
from polykemi.modules.rtpengine_relay import RtpengineParams
from polykemi.storage.provisioned import Database
from tests.support import NOW, message, request_context, services

SDP = "v=0\r\no=u 1 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
A, B, C = (f"udp:192.0.2.{n}:22222" for n in (31, 32, 33))


class Relays:
    """Relays that answer (``alive``), are silent or (``gone``) not there at all; ``asked`` keeps who was asked what."""

    def __init__(self, *alive: str, gone: tuple[str, ...] = ()) -> None:
        self.alive, self.gone = set(alive), set(gone)
        self.asked: list[str] = []
        self.questions: list[dict[str, Any]] = []
        self.answer: dict[str, Bencoded] = {"result": "ok", "sdp": "v=1"}
        self.stray = False  # an answer to a question of before comes first

    def ask(self, address: str, data: bytes, seconds: float, accept: Callable[[bytes], bool]) -> bytes | None:
        """Answer as a relay does."""
        cookie, _, question = data.partition(b" ")
        read = decode(question)
        assert isinstance(read, dict)
        self.asked.append(f"{read['command']} {address[-8:-6]}")
        self.questions.append(read)
        if address in self.gone:
            raise OSError("Connection refused")
        if address not in self.alive:
            return None
        assert not accept(b"other d6:result5:errore")
        answer = cookie + b" " + encode({"result": "pong"} if read["command"] == "ping" else self.answer)
        return answer if accept(answer) else None

    def since(self) -> list[str]:
        """Return who was asked since the last call of this."""
        asked, self.asked = self.asked, []
        return asked


def module(relays: Relays, database: Database | None = None, **params: Any) -> Rtpengine:
    params.setdefault("rtpengine_sock", (f"{A} {B} {C}",))
    made = services(Rtpengine, params={"rtpengine": params}, peers=relays, database=database)
    relays.since()
    found: Rtpengine = made.modules["rtpengine"]
    return found


def invite(call_id: str = "1", *, now: float = NOW, kind: Route = Route.REQUEST, **headers: str) -> RouteContext:
    data = message(
        "INVITE sip:bob@example.test SIP/2.0", "Content-Type: application/sdp", body=SDP, call_id=call_id, **headers
    )
    return request_context(data, now=now, kind=kind)


# ---- bencode
@pytest.mark.parametrize("value", ["", "a\xff", 0, -5, [], {}, ["a", [1, {"b": [2]}], {"c": ""}]])
def test_bencode_there_and_back(value: Bencoded) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "data",
    ["", "x", "i", "i-", "iae", "l", "d", "d1:ae", "di1e1:ae", "5:abc", "-1:a", "l" * 100, "1", "\xb25:a", "9" * 99],
)
def test_what_is_no_bencode_is_told(data: str) -> None:
    with pytest.raises(ValueError):
        decode(data.encode("latin-1"))


# ---- configuration
def test_a_definition_of_a_set() -> None:
    assert parse_set("udp:10.0.0.1:22222", 4) == (4, [("udp:10.0.0.1:22222", 1)])
    assert parse_set(" 2 == udp:h=3  udp6:[::1]:5 unix:/run/x=0", 0) == (
        2,
        [("udp:h", 3), ("udp6:[::1]:5", 1), ("unix:/run/x", 0)],
    )


@pytest.mark.parametrize("definition", ["", "2 ==", "x == udp:h:1", "tcp:h:1", "udp:h:port", "udp:h:70000", "ws://h"])
def test_a_bad_definition_is_told(definition: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        RtpengineParams(rtpengine_sock=(definition,))


@pytest.mark.parametrize("params", [{"hash_algo": 3}, {"read_sdp_pv": "sdp"}])
def test_a_bad_parameter_is_told(params: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        RtpengineParams(**params)


# ---- choice
def test_calls_are_spread_by_call_id_and_weights_and_stay_where_they_are() -> None:
    relays = Relays(A, B, C)
    rtpengine = module(relays, rtpengine_sock=(f"{A}=2 {B}=0 {C}",))
    for call_id in "0123":  # 48, 49, ... modulo 3: below 2 the first
        assert rtpengine.rtpengine_offer0(invite(call_id)) == 1
    assert relays.since() == ["offer 31", "offer 31", "offer 33", "offer 31"]
    rtpengine.enable(A, 0)
    assert rtpengine.rtpengine_offer0(invite("0")) == -1  # the call's own relay is out of use
    assert rtpengine.rtpengine_offer0(invite("9")) == 1
    assert relays.since() == ["offer 33"]


@pytest.mark.parametrize("algorithm, asked", [(0, "31"), (1, "32"), (2, "32")])
def test_ways_to_spread_calls(algorithm: int, asked: str) -> None:
    relays = Relays(A, B, C)
    assert module(relays, hash_algo=algorithm).rtpengine_offer0(invite("3")) == 1
    assert relays.since() == [f"offer {asked}"]


def test_a_relay_that_does_not_answer_is_left_alone_for_a_while() -> None:
    relays = Relays(A, B, C)
    rtpengine = module(relays, rtpengine_retr=2)
    relays.alive.remove(A)
    assert rtpengine.rtpengine_offer0(invite("0")) == 1
    assert relays.since() == ["offer 31", "offer 31", "offer 32"]
    assert rtpengine.rtpengine_offer0(invite("3", now=NOW + 59)) == 1
    assert "offer 31" not in relays.since()
    relays.alive.add(A)
    assert rtpengine.rtpengine_offer0(invite("6", now=NOW + 60)) == 1
    assert relays.since() == ["ping 31", "offer 31"]


def test_when_all_are_dead_all_are_tried_anew() -> None:
    relays = Relays(gone=(A, B, C))
    rtpengine = module(relays, rtpengine_retr=1)
    assert rtpengine.rtpengine_offer0(invite()) == -1
    assert relays.since() == ["ping 31", "ping 32", "ping 33"]
    relays.gone, relays.alive = set(), {B}
    assert rtpengine.rtpengine_offer0(invite()) == 1
    assert relays.since() == ["ping 31", "ping 32", "ping 33", "offer 32"]
    quiet = module(Relays(gone=(A, B, C)), aggressive_redetection=0)
    assert quiet.rtpengine_offer0(invite()) == -1


def test_no_more_relays_are_asked_than_the_limit() -> None:
    relays = Relays(A, B, C)
    relays.answer = {"result": "load limit"}
    assert module(relays, queried_nodes_limit=2).rtpengine_offer0(invite("0")) == -1
    assert relays.since() == ["offer 31", "offer 32"]


def test_calls_on_their_way_may_ask_a_relay_that_takes_no_new_ones() -> None:
    relays = Relays(A)
    rtpengine = module(relays, rtpengine_sock=(A,), rtpengine_allow_op=2)
    assert rtpengine.rtpengine_offer0(invite()) == 1
    assert rtpengine.enable("all", 0) == {"url": "all", "status": "disable"}
    assert rtpengine.rtpengine_delete0(invite()) == 1
    assert rtpengine.rtpengine_offer0(invite("2")) == -1


def test_calls_are_forgotten() -> None:
    rtpengine = module(Relays(A), rtpengine_sock=(A,), hash_table_tout=10)
    for flags in ("", "via-branch=1"):
        rtpengine.rtpengine_offer(invite(), flags)
    rtpengine.rtpengine_offer0(invite("2", now=NOW + 9))
    assert rtpengine.get_hash_total() == 3
    rtpengine.rtpengine_delete(invite(), "via-branch=1")
    assert rtpengine.get_hash_total() == 2
    rtpengine.rtpengine_offer0(invite("3", now=NOW + 10))
    assert rtpengine.get_hash_total() == 2
    rtpengine.rtpengine_delete0(invite("2", now=NOW + 10))
    assert rtpengine.get_hash_total() == 1


# ---- questions
def test_the_branch_to_come_is_the_one_that_comes() -> None:
    relays = Relays(A, B, C)
    rtpengine = module(relays)
    assert rtpengine.rtpengine_offer(invite(), "via-branch=next") == 1
    assert rtpengine.rtpengine_offer(invite(), "via-branch=auto-next") == 1
    told = relays.questions[-1]["via-branch"]
    assert told == relays.questions[-2]["via-branch"]
    ids = rtpengine.services.ids
    assert ids.branch() == told
    assert ids.branch() != told


def test_failure_routes_delete_and_branch_failure_routes_leave_it_to_them() -> None:
    relays = Relays(A, B, C)
    rtpengine = module(relays)
    assert rtpengine.rtpengine_manage0(invite(kind=Route.FAILURE)) == 1
    assert rtpengine.rtpengine_manage0(invite(kind=Route.BRANCH_FAILURE)) == 1
    assert [one.partition(" ")[0] for one in relays.since()] == ["delete"]


def test_a_message_without_from_tag_is_not_asked_about() -> None:
    relays = Relays(A)
    assert module(relays).rtpengine_offer0(invite(from_="<sip:alice@example.test>")) == -1
    assert relays.since() == []


@pytest.mark.parametrize(
    "answer", [{}, {"result": 5}, {"result": "ok"}, {"result": "ok", "sdp": 5}, {"result": "warning"}]
)
def test_answers_that_make_no_sense_fail(answer: dict[str, Bencoded]) -> None:
    relays = Relays(A, B, C)
    relays.answer = answer
    ctx = invite()
    assert module(relays).rtpengine_offer0(ctx) == -1
    assert ctx.edits.body is None


# ---- the operator
def test_what_an_operator_sees_and_says() -> None:
    relays = Relays(A)
    rtpengine = module(relays, rtpengine_sock=(A, f"1 == {B}=3"))
    assert rtpengine.show("all") == [
        {"url": A, "set": 0, "index": 0, "weight": 1, "disabled": 0, "recheck_ticks": 0},
        {"url": B, "set": 1, "index": 1, "weight": 3, "disabled": 1, "recheck_ticks": 60},
    ]
    assert rtpengine.ping("all") == {"url": "all", "status": "fail"}
    assert rtpengine.ping(A) == {"url": A, "status": "success"}
    assert rtpengine.enable(B, 1) == {"url": B, "status": "fail"}
    relays.alive.add(B)
    assert rtpengine.enable(B, 1) == {"url": B, "status": "enable"}
    assert rtpengine.enable(B, 0) == {"url": B, "status": "disable"}
    assert rtpengine.show(B)[0] | {"disabled": "1(permanent)", "recheck_ticks": "N/A"} == rtpengine.show(B)[0]
    with pytest.raises(RpcError, match="not found"):
        rtpengine.show(C)
    with pytest.raises(RpcError, match="No Database"):
        rtpengine.reload()


def test_relays_of_the_database_come_and_go() -> None:
    database = Database()
    database.query(f"INSERT INTO rtpengine (setid, url, weight, disabled) VALUES (0, '{A}', 1, 0), (0, '{B}', 1, 1)")
    relays = Relays(A, B, C)
    rtpengine = module(relays, database, rtpengine_sock=(), db_url="polykemi", rtpengine_allow_op=2)
    assert [(one["url"], one["disabled"]) for one in rtpengine.show("all")] == [(A, 0), (B, "1(permanent)")]
    assert rtpengine.rtpengine_offer0(invite()) == 1
    database.query(f"UPDATE rtpengine SET url = '{C}' WHERE url = '{A}'")
    assert rtpengine.reload() == "Ok. Reload successful."
    assert [one["url"] for one in rtpengine.show("all")] == [B, C]
    relays.since()
    assert rtpengine.rtpengine_delete0(invite()) == 1
    assert rtpengine.rtpengine_offer0(invite("2")) == 1
    assert relays.since() == ["delete 31", "offer 33"]
    database.query(f"UPDATE rtpengine SET url = 'x' WHERE url = '{B}'")
    with pytest.raises(RpcError, match="expected udp:host:port"):
        rtpengine.reload()
