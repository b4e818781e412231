"""Variables that depend on the route block, the server and the clock."""

from __future__ import annotations

import datetime as dt
import random

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.ids import Ids
from polykemi.kemi.registry import Xval
from polykemi.kemi.route import Route
from polykemi.pv.compiler import Environment, Variables
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Request, Response, parse
from polykemi.transaction.forking import Branch, Transaction
from polykemi.transaction.machine import Timings
from polykemi.transaction.target import Shared, Target
from tests import support

REQUEST = support.message(
    "INVITE sip:bob@h.test SIP/2.0", 'P-Charging-Vector: icid-value="v";orig-ioi=o', from_="<sip:a@b>;tag=caller"
)
REPLY = support.message("SIP/2.0 486 Busy Here", via="SIP/2.0/UDP us;branch=z9hG4bKb", cseq="1 INVITE")
PHONE = Flow(support.LISTENER, "192.0.2.77", 5077)


def read(ctx: RouteContext, name: str, environment: Environment | None = None) -> Xval:
    variables = Variables(environment=environment)
    assert variables.compile(name) is not None, name
    return variables.getters[name](ctx)


def transaction() -> tuple[Transaction, Branch, Response]:
    """Return the transaction of REQUEST with one branch that was answered with REPLY."""
    request, reply = parse(REQUEST), parse(REPLY)
    assert isinstance(request, Request)
    assert isinstance(reply, Response)
    source = Flow(support.LISTENER, "192.0.2.10", 5060)
    made = Transaction("key", request, source, ("", 0, source), Timings(), Shared(), support.NOW)
    made.label = 7
    target = Target("sip:bob@192.0.2.77", "sip:du", path="<sip:p>", flags=3, ruid="r1", instance="<urn:x>")
    branch = Branch(made, "z9hG4bKb", "INVITE", PHONE, Timings(), target)
    branch.reply, branch.status = reply, 486
    made.branches.append(branch)
    return made, branch, reply


def failure_context(*, local: bool = False) -> RouteContext:
    made, _, reply = transaction()
    ctx = RouteContext(Route.FAILURE, "f", made.request, made.source, support.NOW)
    ctx.transaction, ctx.shared = made, made.shared
    ctx.reply_status = 408 if local else 486
    ctx.reply = None if local else reply
    return ctx


def test_a_failure_route_sees_the_winning_reply() -> None:
    ctx = failure_context()
    assert {
        x: read(ctx, x) for x in ("$T_reply_code", "$T_reply_reason", "$T_reply_last", "$T(reply_type)", "$rs")
    } == {
        "$T_reply_code": 486,
        "$T_reply_reason": "Busy Here",
        "$T_reply_last": 486,
        "$T(reply_type)": 0,
        "$rs": None,
    }
    assert read(ctx, "$T_rpl($rs)") == 486
    assert read(ctx, "$T_rpl($si)") == "192.0.2.77"
    assert read(ctx, "$T_rpl($hdr(CSeq))") == "1 INVITE"
    assert read(ctx, "$T_req($rU)") is None  # the message is the request


def test_a_failure_route_without_a_reply_has_a_status_only() -> None:
    ctx = failure_context(local=True)
    assert read(ctx, "$T_reply_code") == 408
    assert read(ctx, "$T_reply_reason") == ""
    assert read(ctx, "$T(reply_type)") == 1
    assert read(ctx, "$T_rpl($rs)") is None


def test_an_onreply_route_sees_request_reply_and_branch() -> None:
    made, branch, reply = transaction()
    made.ruri, made.dst_uri = "sip:relayed@x", "sip:hop"
    ctx = RouteContext(Route.ONREPLY, "r", reply, PHONE, support.NOW)
    ctx.transaction, ctx.branch, ctx.branch_index, ctx.reply_status = made, branch, 2, 486
    ctx.ruid = "r1"
    variables = Variables()
    names = "$T_rpl($rs) $T_req($si) $T_req($ru) $T_req($du) $T_req($ou) $T_branch_idx $T_reply_ruid $rr $T(id_label)"
    assert [variables.getters[name](ctx) for name in names.split(" ")] == [
        486,
        "192.0.2.10",
        "sip:relayed@x",
        "sip:hop",
        "sip:bob@h.test",
        2,
        "r1",
        "Busy Here",
        7,
    ]
    assert variables.getters["$T_req($rU)"](ctx) == "relayed"
    assert [
        variables.getters[f"$T_branch({x})"](ctx) for x in ("uri", "dst_uri", "path", "flags", "ruid", "instance")
    ] == [
        "sip:bob@192.0.2.77",
        "sip:du",
        "<sip:p>",
        3,
        "r1",
        "<urn:x>",
    ]
    made.let_go()
    made.raw = b""
    other = RouteContext(Route.ONREPLY, "r", reply, PHONE, support.NOW)
    other.transaction = made
    assert variables.getters["$T_req($ru)"](other) is None


def test_without_a_transaction_there_is_nothing_to_know_of_it() -> None:
    ctx = RouteContext(Route.REPLY, "r", parse(REPLY), PHONE, support.NOW)
    names = (
        "$T_req($ru)",
        "$T_rpl($rs)",
        "$T(reply_type)",
        "$T_branch(uri)",
        "$T_reply_last",
        "$T(id_index)",
        "$T(id_label)",
    )
    assert [read(ctx, name) for name in names] == [None] * 7
    assert read(ctx, "$T_branch_idx") == -1


def test_onsend_knows_where_the_message_goes() -> None:
    ctx = support.request_context(REQUEST)
    assert [read(ctx, f"$sndto({x})") for x in ("ip", "port", "buf", "len", "af")] == [None] * 5
    ctx.wire, ctx.destination = b"INVITE", Flow(Listener("tcp", "::1", 5), "2001:db8::1", 6)
    assert [read(ctx, f"$sndto({x})") for x in ("ip", "port", "proto", "sproto", "af", "buf", "len")] == [
        "2001:db8::1",
        6,
        2,
        "tcp",
        10,
        "INVITE",
        6,
    ]
    assert [read(ctx, f"$sndfrom({x})") for x in ("ip", "port", "sproto")] == ["::1", 5, "tcp"]


def test_the_clock_is_that_of_the_message() -> None:
    ctx = support.request_context(REQUEST, now=1_700_000_000.25)
    local = dt.datetime.fromtimestamp(1_700_000_000).astimezone()
    assert [read(ctx, x) for x in ("$Ts", "$TS", "$TV(s)", "$TV(u)", "$TV(Sn)")] == [
        1_700_000_000,
        1_700_000_000,
        1_700_000_000,
        250_000,
        "1700000000.250000",
    ]
    assert read(ctx, "$TV(Fn)") == local.strftime("%Y-%m-%d %H:%M:%S.250000")
    assert read(ctx, "$TF") == local.ctime()
    assert [read(ctx, f"$time({x})") for x in ("sec", "min", "hour", "mday", "mon", "year")] == [
        local.second,
        local.minute,
        local.hour,
        local.day,
        local.month,
        local.year,
    ]
    assert [read(ctx, f"$utime({x})") for x in ("hour", "wday", "yday", "isdst")] == [22, 3, 318, 0]
    assert read(ctx, "$utimef(%Y-%m-%d %H:%M)") == "2023-11-14 22:13"
    assert read(ctx, "$timef(%Y)") == "2023"
    assert read(ctx, "$time(isdst)") in (0, 1)
    variables = Variables()
    variables.environment.variables["f"] = "%Y"
    assert variables.getters["$utimef($var(f))"](ctx) == "2023"
    assert variables.getters["$utimef($null)"](ctx) is None


def test_what_the_server_tells_of_itself() -> None:
    environment = Environment(
        listeners=(Listener("udp", "0.0.0.0", 5060), support.LISTENER),
        started=1_699_999_999.5,
        version="1.2.3",
        hostname="sip.example.test",
        ids=Ids(random.Random(0)),
        counters={"core.fwd_requests": 4, "usrloc.users": 2},
        definitions={"A": "12", "Q": "'text'", "E": "x"},
        process={"HOME": "/h", "N": "42"},
        pid=4711,
    )
    ctx = support.request_context(REQUEST)
    variables = Variables(environment=environment)
    expected = {
        "$Tb": 1_699_999_999,
        "$version(num)": "1.2.3",
        "$version(full)": "polykemi 1.2.3",
        "$ksr(verval)": 1_002_003,
        "$HN(n)": "sip",
        "$HN(f)": "sip.example.test",
        "$HN(d)": "example.test",
        "$HN(i)": "192.0.2.1",
        "$stat(fwd_requests)": 4,
        "$stat(usrloc.users)": 2,
        "$stat(nosuch)": None,
        "$def(A)": "12",
        "$defn(A)": 12,
        "$defs(Q)": "text",
        "$defs(E)": "x",
        "$defs(nosuch)": None,
        "$env(HOME)": "/h",
        "$envn(N)": 42,
        "$envn(nosuch)": None,
        "$pp": 4711,
        "$En": "\n",
        "$Eb": "\\",
        "$C(Rx)": "\x1b[1;31;49m",
        "$C(xx)": "\x1b[0m",
        "$Rn": None,
        "$fsn": None,
    }
    assert {name: variables.getters[name](ctx) for name in expected} == expected
    first, second = variables.getters["$sruid"](ctx), variables.getters["$sruid"](ctx)
    assert isinstance(first, str)
    assert first.startswith("srid-")
    assert first != second
    assert read(ctx, "$sruid") is None
    assert read(ctx, "$HN(i)") is None


def test_messages_are_numbered() -> None:
    variables = Variables()
    one, two = support.request_context(REQUEST), support.request_context(REQUEST)
    assert [variables.getters["$mi"](ctx) for ctx in (one, one, two)] == [1, 1, 2]


def test_the_direction_in_a_dialog_is_that_of_our_route() -> None:
    ctx = support.request_context(
        support.message("BYE sip:h.test SIP/2.0", from_="<sip:b@b>;tag=callee", to="<sip:a@b>;tag=caller")
    )
    assert [read(ctx, x) for x in ("$rdir(id)", "$rdir(name)", "$fti", "$tti")] == [1, "downstream", "callee", "caller"]
    ctx.shared.route_params = "lr;ftag=caller"
    assert [read(ctx, x) for x in ("$rdir(id)", "$rdir(name)", "$fti", "$tti")] == [2, "upstream", "caller", "callee"]


def test_parts_of_headers_and_buffer() -> None:
    ctx = support.request_context(REQUEST)
    variables = Variables()
    variables.environment.variables |= {"i": 7, "bad": "x"}
    expected = {
        "$pcv(all)": 'icid-value="v";orig-ioi=o',
        "$pcv(value)": "v",
        "$pcv(orig)": "o",
        "$pcv(term)": None,
        "$msgbuf(0)": "I",
        "$msgbuf(0/6)": "INVITE",
        "$msgbuf($var(i)/3)": "sip",
        "$msgbuf($var(bad)/3)": None,
        "$msgbuf(99999)": None,
        "$via0(branch)": "z9hG4bKtest",
        "$via1(host)": None,
        "$mb": REQUEST.decode(),
        "$msg(buf)": REQUEST.decode(),
        "$rul": 14,
        "$ful": 7,
        "$cts": 0,
        "$ctu": None,
        "$(ai[*])": None,
    }
    assert {name: variables.getters[name](ctx) for name in expected} == expected
    assert variables.compile("$msgbuf(x)") is None
    assert variables.compile("$(msgbuf(1)[0])") is None


def test_the_updated_buffer_shows_the_edits() -> None:
    ctx = support.request_context(support.message("INVITE sip:h.test SIP/2.0", "X-A: 1", body="old"))
    ctx.edits.inserts.append((0, "X-B: 2"))
    assert read(ctx, "$(mbu{s.substr,0,36})") == "INVITE sip:h.test SIP/2.0\r\nX-B: 2\r\nV"
    assert str(read(ctx, "$mbu")).endswith("old")
    ctx.edits.body = b"new"
    assert str(read(ctx, "$mbu")).endswith("new")


def test_a_content_length_that_is_no_number_leaves_no_body() -> None:
    ctx = support.request_context(REQUEST.replace(b"Content-Length: 0", b"Content-Length: x"))
    assert [read(ctx, name) for name in ("$rb", "$cl", "$bs", "$msg(lpart)")][:3] == [None, None, 0]


def test_a_reply_without_cseq_has_no_method() -> None:
    data = REPLY.replace(b"Cseq", b"X-Cseq")
    ctx = RouteContext(Route.REPLY, "r", parse(data), PHONE, support.NOW)
    assert [read(ctx, name) for name in ("$rm", "$rmid", "$cs", "$csb")] == [None] * 4


def test_contact_star_and_expiry() -> None:
    star = support.request_context(support.message("REGISTER sip:h SIP/2.0", "Contact: *", "Expires: 5"))
    assert [read(star, x) for x in ("$cts", "$expires(min)", "$expires(max)")] == [1, 5, 5]
    none = support.request_context(
        support.message("REGISTER sip:h SIP/2.0", "Contact: <sip:a>;expires=x", "Expires: soon")
    )
    assert [read(none, x) for x in ("$ctu", "$expires(min)")] == ["sip:a", None]


@pytest.mark.parametrize("value", ["Digest x", "Basic abc", 'Digest username="u'])
def test_broken_credentials_are_null(value: str) -> None:
    ctx = support.request_context(support.message("REGISTER sip:h SIP/2.0", f"Authorization: {value}"))
    assert [read(ctx, x) for x in ("$au", "$ar", "$AU")] == [None, None, "alice"]


def test_a_broken_via_has_no_parts() -> None:
    ctx = support.request_context(support.message("OPTIONS sip:h SIP/2.0", via="rubbish"))
    assert [read(ctx, x) for x in ("$via0(host)", "$via1(host)", "$hdr(Via)")] == [None, None, "rubbish"]


def test_a_reply_goes_where_its_second_via_says() -> None:
    via = "SIP/2.0/UDP us;branch=z9hG4bKa, SIP/2.0/TCP host:99;branch=z9hG4bKb"
    ctx = RouteContext(Route.REPLY, "r", parse(support.message("SIP/2.0 200 OK", via=via, cseq="1 INVITE")), PHONE, 0.0)
    assert [read(ctx, f"$rpl({x})") for x in ("duri", "dhost", "dport", "dproto", "dprotoid", "cntvia", "cntrr")] == [
        "sip:host:99;transport=tcp",
        "host",
        99,
        "tcp",
        2,
        2,
        0,
    ]


def test_a_variable_on_a_reply_that_no_branch_brought() -> None:
    ctx = failure_context()
    other = parse(REPLY)
    assert isinstance(other, Response)
    ctx.reply = other
    assert read(ctx, "$T_rpl($si)") == "192.0.2.10"
    without = failure_context()
    without.transaction = None
    assert read(without, "$T_rpl($rs)") == 486


def test_the_account_is_null_when_from_is_broken() -> None:
    ctx = support.request_context(support.message("REGISTER sip:h SIP/2.0", from_="nobody"))
    assert [read(ctx, x) for x in ("$Au", "$AU")] == [None, None]
