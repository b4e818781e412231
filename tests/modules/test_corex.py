"""corex: destination set, extended flags, sockets, raw data."""

from __future__ import annotations

from pathlib import Path

import pytest

from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.faked import event_context
from polykemi.modules.corex import Corex, CorexParams
from polykemi.modules.corex_files import Files
from polykemi.sip.flow import Listener
from polykemi.transaction.target import MOST_TARGETS
from tests.support import LISTENER, message, request_context, services

SECOND = Listener("udp", "2001:db8::1", 5070)


def context(uri: str = "sip:bob@example.test", *lines: str) -> RouteContext:
    return request_context(message(f"INVITE {uri} SIP/2.0", *lines))


def corex() -> Corex:
    return Corex(services(listeners=(LISTENER, SECOND)))


def test_user_and_user_agent() -> None:
    module = corex()
    assert [module.has_ruri_user(context()), module.has_ruri_user(context("sip:example.test"))] == [1, -1]
    agents = [context("sip:a@b", "User-Agent: phone"), context("sip:a@b", "User-Agent: "), context()]
    assert [module.has_user_agent(ctx) for ctx in agents] == [1, -1, -1]


def test_a_made_up_message_is_told_from_a_received_one() -> None:
    assert corex().is_faked_msg(event_context("f", "e", Listener("udp", "127.0.0.1", 5060), 0.0)) == 1
    assert corex().is_faked_msg(context()) == -1


def test_branches_are_added_with_their_priority() -> None:
    module, ctx = corex(), context()
    ctx.dst_uri, ctx.bflags = "sip:192.0.2.7", 1 << 6
    assert module.append_branch_uri(ctx, "sip:carol@example.test") == 1
    assert module.append_branch_uri_q(ctx, "sip:dave@example.test", "0.5") == 1
    assert module.append_branch(ctx) == 1
    assert (ctx.dst_uri, ctx.bflags) == ("", 0)
    assert module.append_branch_uri(ctx, "") == 1
    found = [(target.uri, target.dst_uri, target.q, target.flags) for target in ctx.branches]
    assert found == [
        ("sip:carol@example.test", "sip:192.0.2.7", -1, 1 << 6),
        ("sip:dave@example.test", "sip:192.0.2.7", 500, 1 << 6),
        ("sip:bob@example.test", "sip:192.0.2.7", -1, 1 << 6),
        ("sip:bob@example.test", "", -1, 0),
    ]


@pytest.mark.parametrize("q", ["2", "1.5", "0.1234", "x", "-1", ".", "0.5.5"])
def test_a_priority_that_is_no_q_value_is_refused(q: str) -> None:
    ctx = context()
    assert corex().append_branch_uri_q(ctx, "sip:a@b", q) == -1
    assert ctx.branches == []


def test_branches_are_limited_and_must_be_uris() -> None:
    module, ctx = corex(), context()
    assert [module.append_branch(ctx) for _ in range(MOST_TARGETS)] == [1] * MOST_TARGETS
    assert module.append_branch(ctx) == -1
    with pytest.raises(ParseError):
        module.append_branch_uri(ctx, "nonsense")


def test_extended_flags_are_shared_by_the_transaction_and_apart_from_message_flags() -> None:
    module, ctx = corex(), context()
    assert [module.setxflag(ctx, 63), module.setxflag(ctx, 64), module.setxflag(ctx, -1)] == [1, -1, -1]
    later = context()
    later.shared = ctx.shared
    assert [module.isxflagset(later, 63), module.isxflagset(later, 1), module.isxflagset(later, 64)] == [1, -1, -1]
    assert ctx.shared.flags == 0
    assert [module.resetxflag(later, 63), module.resetxflag(later, 64)] == [1, -1]
    assert module.isxflagset(ctx, 63) == -1


@pytest.mark.parametrize(
    ("address", "result", "listener"),
    [
        ("udp:192.0.2.1:5060", 1, LISTENER),
        ("192.0.2.1", 1, LISTENER),
        ("udp:[2001:db8::1]:5070", 1, SECOND),
        ("tcp:192.0.2.1:5060", 1, None),  # not ours: logged, nothing changes
        ("udp:192.0.2.1:5061", 1, None),
        ("udp:[", -1, None),
        ("udp:a@192.0.2.1:5060", -1, None),
    ],
)
def test_the_sending_socket_is_chosen_among_our_listeners(address: str, result: int, listener: Listener | None) -> None:
    module, ctx = corex(), context()
    assert module.set_send_socket(ctx, address) == result
    assert ctx.force_listener == listener
    assert module.set_send_socket(ctx, "") == 1
    assert ctx.force_listener is None


def test_raw_data_is_sent_as_it_is() -> None:
    module, ctx = corex(), context()
    outbox = module.services.outbox
    assert module.send_data(ctx, "sip:203.0.113.1:5080", "ping\xff") == 1
    assert module.sendx(ctx, "sip:[2001:db8::9]", "udp:[2001:db8::1]:5070", "pong") == 1
    sent = [(data, flow.listener, flow.host, flow.port) for data, flow in outbox.items]
    assert sent == [(b"ping\xff", LISTENER, "203.0.113.1", 5080), (b"pong", SECOND, "2001:db8::9", 5060)]
    assert module.send_data(ctx, "sip:203.0.113.1;transport=tcp", "ping") == -1
    assert module.send_data(ctx, "tel:1", "ping") == -1
    assert module.sendx(ctx, "sip:203.0.113.1", "udp:[", "ping") == -1
    assert module.sendx(ctx, "sip:203.0.113.1", "udp:203.0.113.2:1", "ping") == 1
    assert outbox.items[-1][1].listener == LISTENER


# ---- files
def test_files_are_read_and_written_inside_of_their_directory_alone(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    (inside / "more").mkdir(parents=True)
    (tmp_path / "outside").write_text("secret")
    (inside / "link").symlink_to(tmp_path / "outside")
    files = Files(str(inside))
    assert files.write("a", b"one\xff")
    assert files.write("more/b", b"two")
    assert files.read("a") == b"one\xff"
    assert files.read(str(inside / "more" / "b")) == b"two"
    for name in (
        "../outside",
        str(tmp_path / "outside"),
        "link",
        "",
        ".",
        "more",
        "nowhere",
        "a/../../outside",
        "a\0b",
    ):
        assert files.read(name) is None
    for name in ("../new", str(tmp_path / "new"), "link", "", "more", "nowhere/new", "a\0b"):
        assert not files.write(name, b"x")
    assert (tmp_path / "outside").read_text() == "secret"
    assert not (tmp_path / "new").exists()


def test_without_a_directory_there_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert Files("").read(str(tmp_path / "a")) is None
    assert not Files("").write(str(tmp_path / "a"), b"y")


@pytest.mark.parametrize("wrong", ["main", "=udp:192.0.2.1:5060", "main=a:b:c"])
def test_a_socket_name_needs_a_name_and_a_socket(wrong: str) -> None:
    with pytest.raises(ValueError, match="expected name=proto:host:port"):
        CorexParams(socket_name=(wrong,))


def test_a_socket_name_is_that_of_a_listener() -> None:
    with pytest.raises(DataError):
        services(Corex, params={"corex": {"socket_name": ("main=udp:192.0.2.99:5060",)}})
