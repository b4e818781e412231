"""Variables that are written: what is read afterwards, and what the next hop gets."""

from __future__ import annotations

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.kemi.route import Route
from polykemi.pv.compiler import Environment, Variables
from polykemi.sip.build import forward_request
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Request, parse
from polykemi.transaction.target import Target
from tests import support

OTHER = Listener("udp", "2001:db8::1", 5062)
ENVIRONMENT = Environment(listeners=(support.LISTENER, OTHER))
VARIABLES = Variables(environment=ENVIRONMENT)


def context(uri: str = "sip:a:pw@h.test:99;transport=tls?h=1", **headers: str) -> RouteContext:
    return support.request_context(support.message(f"INVITE {uri} SIP/2.0", **headers))


def put(ctx: RouteContext, name: str, value: Xval) -> bool:
    accessor = VARIABLES.compile(name)
    assert accessor is not None
    return accessor.set is not None and accessor.set(ctx, value)


def read(ctx: RouteContext, name: str) -> Xval:
    return VARIABLES.getters[name](ctx)


@pytest.mark.parametrize(
    ("uri", "name", "value", "changed"),
    [
        ("sip:a@h.test", "$ru", "sip:new@x", "sip:new@x"),
        ("sip:a:pw@h.test:99;transport=tls?h=1", "$rU", "z", "sip:z:pw@h.test:99;transport=tls?h=1"),
        ("sip:a:pw@h.test:99;transport=tls?h=1", "$rU", None, "sip:h.test:99;transport=tls?h=1"),
        ("sip:a:pw@h.test:99;transport=tls?h=1", "$rU", "", "sip:h.test:99;transport=tls?h=1"),
        ("sip:a:pw@h.test:99;transport=tls?h=1", "$rd", "h3", "sip:a:pw@h3:99;transport=tls?h=1"),
        ("sip:a:pw@h.test:99;transport=tls?h=1", "$rp", "88", "sip:a:pw@h.test:88;transport=tls?h=1"),
        ("sip:a:pw@h.test:99;transport=tls?h=1", "$rp", 7, "sip:a:pw@h.test:7;transport=tls?h=1"),
        ("sip:a:pw@h.test:99;transport=tls?h=1", "$rp", None, "sip:a:pw@h.test;transport=tls?h=1"),
        ("sip:h.test", "$rU", "new", "sip:new@h.test"),
        ("SIPS:h.test", "$ruri.user", "new", "SIPS:new@h.test"),
        ("sip:a@h.test", "$ruri.domain", "d2", "sip:a@d2"),
        ("tel:+123;ph=x", "$rU", "456", "tel:456;ph=x"),
        ("tel:+123", "$rd", "dom", "sip:+123@dom;user=phone"),
        # what is refused leaves the URI as it is
        ("sip:a@h.test", "$ru", None, None),
        ("sip:a@h.test", "$ru", 5, None),
        ("sip:a@h.test", "$rU", 5, None),
        ("sip:a@h.test", "$rd", None, None),
        ("sip:a@h.test", "$rd", "", None),
        ("sip:a@h.test", "$rp", "abc", None),
        ("sip:a@h.test", "$rp", 70000, None),
        ("sip:a@h.test", "$rP", "tcp", None),
        ("sip:a@h.test", "$rm", "BYE", None),
        ("tel:+123", "$rU", None, None),
        ("tel:+123", "$rp", 5, None),
        ("urn:service:sos", "$rU", "x", None),
        ("urn:service:sos", "$rd", "x", None),
    ],
)
def test_writing_parts_of_the_request_uri(uri: str, name: str, value: Xval, changed: str | None) -> None:
    ctx = context(uri)
    assert put(ctx, name, value) is (changed is not None)
    assert read(ctx, "$ru") == (changed or uri)
    assert read(ctx, "$ou") == uri


def test_a_broken_request_uri_has_no_parts_and_takes_none() -> None:
    ctx = context()
    assert put(ctx, "$ru", "notauri")
    assert [read(ctx, name) for name in ("$rU", "$rd", "$rp", "$rUl")] == [None] * 4
    assert read(ctx, "$rz") == "none"
    assert not put(ctx, "$rU", "x")
    assert put(ctx, "$ru", "")
    assert [read(ctx, name) for name in ("$ru", "$rU", "$rz", "$rul")] == [None] * 4


def test_the_destination_uri_can_be_set_and_cleared() -> None:
    ctx = context()
    assert read(ctx, "$du") is None
    assert put(ctx, "$du", "sip:1.2.3.4:5;transport=tcp")
    assert [read(ctx, f"$d{x}") for x in "udpP"] == ["sip:1.2.3.4:5;transport=tcp", "1.2.3.4", "5", "tcp"]
    assert read(ctx, "$nh(d)") == "1.2.3.4"
    assert not put(ctx, "$du", 5)
    assert put(ctx, "$du", None)
    assert read(ctx, "$du") is None
    assert read(ctx, "$nh(U)") == "a"


def built(ctx: RouteContext) -> list[str]:
    assert isinstance(ctx.message, Request)
    data = forward_request(ctx.message, ctx.edits, uri=ctx.ruri, via="SIP/2.0/UDP us")
    return data.decode("latin-1").split("\r\n")


def test_from_and_to_are_rewritten_for_the_next_hop_only() -> None:
    ctx = context(from_='"Al" <sip:al:pw@h.test:5;x=y>;tag=f;p=q', to="sip:bob@b.test")
    assert put(ctx, "$fu", "sip:new@from.test")
    assert put(ctx, "$tn", "Tom T")
    assert put(ctx, "$tU", "tu2")
    assert put(ctx, "$td", "t.test")
    assert read(ctx, "$fu") == "sip:al:pw@h.test:5;x=y"
    assert read(ctx, "$tU") == "bob"
    lines = built(ctx)
    assert 'From: "Al" <sip:new@from.test>;tag=f;p=q' in lines
    assert "To: Tom T <sip:tu2@t.test>" in lines


def test_parts_of_from_can_be_removed() -> None:
    ctx = context(from_='"Al" <sip:al:pw@h.test>;tag=f')
    assert put(ctx, "$fn", None)
    assert put(ctx, "$fU", None)
    assert "From: <sip:h.test>;tag=f" in built(ctx)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("$fu", None),
        ("$fu", 5),
        ("$fu", "sip:x\r\nEvil: 1"),
        ("$fU", "x\r\ny"),
        ("$fU", 5),
        ("$fd", None),
        ("$fn", 5),
        ("$fn", "a\nb"),
        ("$ft", "x"),
    ],
)
def test_a_from_that_cannot_be_written_stays(name: str, value: Xval) -> None:
    ctx = context()
    assert not put(ctx, name, value)
    assert not ctx.edits


def test_a_missing_or_broken_from_reads_as_null_and_cannot_be_set() -> None:
    data = support.message("INVITE sip:h.test SIP/2.0", to='"open <sip:x>').replace(b"From", b"X-From")
    ctx = support.request_context(data)
    assert [read(ctx, f"$f{x}") for x in ("u", "U", "d", "n", "t", "ul", "Ul")] == [None] * 7
    assert read(ctx, "$tts") == 0
    assert not put(ctx, "$fu", "sip:x@y")
    assert not put(ctx, "$tu", "sip:x@y")
    ctx = context(from_="notauri")
    assert read(ctx, "$fU") is None
    assert not put(ctx, "$fU", "x")
    assert not put(ctx, "$fd", "x")


def test_the_request_uri_of_a_reply_cannot_be_set() -> None:
    ctx = context()
    reply = parse(support.message("SIP/2.0 200 OK", cseq="1 INVITE"))
    ctx = RouteContext(Route.ONREPLY, "x", reply, ctx.flow, ctx.now)
    assert not put(ctx, "$ru", "sip:x@y")
    assert read(ctx, "$ru") is None


@pytest.mark.parametrize(
    ("text", "listener"),
    [
        ("udp:192.0.2.1:5060", support.LISTENER),
        ("192.0.2.1:5060", support.LISTENER),
        ("192.0.2.1", support.LISTENER),
        ("udp:192.0.2.1", support.LISTENER),
        ("udp:[2001:db8::1]:5062", OTHER),
        ("[2001:db8::1]:5062", OTHER),
        ("tcp:192.0.2.1:5060", None),
        ("udp:192.0.2.1:5061", None),
        ("udp:[2001:db8::1]", None),
        ("rubbish", None),
    ],
)
def test_the_forced_socket_is_one_of_our_listeners(text: str, listener: Listener | None) -> None:
    ctx = context()
    assert put(ctx, "$fs", text)
    assert ctx.force_listener == listener
    assert read(ctx, "$fs") == (str(listener) if listener else None)
    assert read(ctx, "$fsp") == (listener.port if listener else 0)
    assert put(ctx, "$fs", None)
    assert ctx.force_listener is None
    assert not put(ctx, "$fs", 5)


def test_flags_are_masks_hex_texts_and_bits() -> None:
    ctx = context()
    assert put(ctx, "$mf", 5)
    assert put(ctx, "$Mf(1)", 1)
    assert put(ctx, "$Mf(0)", 0)
    assert ctx.shared.flags == 6
    assert read(ctx, "$mF") == "00000006"
    assert (read(ctx, "$Mf(1)"), read(ctx, "$Mf(0)")) == (1, 0)
    assert not put(ctx, "$mf", "x")
    assert not put(ctx, "$Mf(1)", "x")
    assert put(ctx, "$mF", None)
    assert ctx.shared.flags == 0
    assert put(ctx, "$bf", 3)
    assert put(ctx, "$Sf(31)", 1)
    assert (ctx.bflags, ctx.sflags) == (3, 1 << 31)


def test_branches_are_appended_changed_and_removed() -> None:
    ctx = context("sip:first@h.test")
    assert read(ctx, "$br") is None
    assert read(ctx, "$ds") is None
    assert put(ctx, "$br", "sip:br1@x")
    assert put(ctx, "$br", "sip:br2@x")
    assert not put(ctx, "$br", None)
    assert put(ctx, "$(branch(q)[1])", 50)
    assert put(ctx, "$branch(dst_uri)", "sip:d")
    assert put(ctx, "$branch(flags)", 4)
    assert put(ctx, "$branch(send_socket)", "udp:192.0.2.1:5060")
    assert read(ctx, "$branch(count)") == 2
    assert read(ctx, "$bR") == "sip:br1@x, <sip:br2@x>;q=0.05"
    assert read(ctx, "$ds") == "Contact: <sip:br1@x>, <sip:br2@x>;q=0.05"
    assert put(ctx, "$ru", "sip:new@h.test")
    assert read(ctx, "$ds") == "Contact: <sip:new@h.test>, <sip:br1@x>, <sip:br2@x>;q=0.05"
    assert [read(ctx, f"$branch({x})") for x in ("uri", "dst_uri", "flags", "send_socket", "path", "ruid")] == [
        "sip:br1@x",
        "sip:d",
        4,
        "udp:192.0.2.1:5060",
        None,
        None,
    ]
    assert read(ctx, "$(branch(uri)[-1])") == "sip:br2@x"
    assert read(ctx, "$(branch(uri)[2])") is None
    assert read(ctx, "$(branch(uri)[$rm])") is None
    assert not put(ctx, "$(branch(path)[2])", "x")
    assert not put(ctx, "$branch(path)", 5)
    assert not put(ctx, "$branch(flags)", "x")
    assert not put(ctx, "$branch(send_socket)", "tcp:1.1.1.1:1")
    assert put(ctx, "$branch(send_socket)", None)
    assert put(ctx, "$branch(q)", None)
    assert read(ctx, "$branch(q)") is None
    assert put(ctx, "$(branch(uri)[0])", None)
    assert [target.uri for target in ctx.branches] == ["sip:br2@x"]


def test_the_static_branch_is_filled_by_attributes() -> None:
    ctx = context()
    ENVIRONMENT.static_branch = Target("")
    assert put(ctx, "$sbranch(uri)", "sip:s@x")
    assert put(ctx, "$sbranch(path)", "<sip:p;lr>")
    assert read(ctx, "$sbranch(uri)") == "sip:s@x"
    assert ENVIRONMENT.static_branch.path == "<sip:p;lr>"


def test_variables_of_the_process_keep_what_they_are_given() -> None:
    ctx = context()
    assert read(ctx, "$var(x)") == 0
    assert put(ctx, "$var(x)", "s")
    assert read(ctx, "$vz(x)") == "s"
    assert put(ctx, "$var(x)", None)
    assert read(ctx, "$var(x)") == 0
    assert read(ctx, "$vn(x)") is None
    assert put(ctx, "$vn(x)", 5)
    assert read(ctx, "$vn(x)") == 5
    assert put(ctx, "$vn(x)", None)
    assert read(ctx, "$vn(x)") is None
    assert put(ctx, "$shv(x)", 4)
    assert read(ctx, "$shvinc(x)") == 5
    assert put(ctx, "$shv(x)", None)
    assert read(ctx, "$shv(x)") == ""
    assert read(ctx, "$shvinc(x)") == 1


def test_the_flow_of_a_message_over_ipv6_and_websocket() -> None:
    message = parse(support.message("OPTIONS sip:h.test SIP/2.0"))
    ctx = RouteContext(Route.REQUEST, "x", message, Flow(Listener("wss", "::1", 443), "2001:db8::9", 4444), 0.0)
    assert {
        x: read(ctx, x) for x in ("$si", "$siz", "$su", "$sut", "$sas", "$Ru", "$af(name)", "$af(id)", "$prid")
    } == {
        "$si": "2001:db8::9",
        "$siz": "[2001:db8::9]",
        "$su": "sip:[2001:db8::9]:4444;transport=ws",
        "$sut": "sip:[2001:db8::9]:4444;transport=ws",
        "$sas": "wss:[2001:db8::9]:4444",
        "$Ru": "sip:[::1]:443;transport=ws",
        "$af(name)": "IPv6",
        "$af(id)": 10,
        "$prid": 6,
    }
