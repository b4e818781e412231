"""siputils: tests of messages and URIs, hidden Contacts. Results as Kamailio 5.6 gives them."""

from __future__ import annotations

import pytest

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.siputils import Params, SipUtils
from polykemi.modules.sl import Sl
from polykemi.sip.flow import Flow
from tests.support import LISTENER, NOW, headers, message, replies, request_context, services


def context(uri: str = "sip:bob@example.test", *lines: str, **fields: str) -> RouteContext:
    return request_context(message(f"INVITE {uri} SIP/2.0", *lines, **fields))


def siputils(**params: str) -> SipUtils:
    return SipUtils(services(), Params(**params))


def contact(ctx: RouteContext) -> list[str]:
    return [line[9:] for line in ctx.edits.apply(ctx.message.lines) if line.startswith("Contact: ")]


def reply_context(*lines: str) -> RouteContext:
    return request_context(message("SIP/2.0 200 OK", *lines, cseq="1 INVITE"), kind=Route.REPLY)


def test_requests_replies_and_dialogs() -> None:
    module, request, reply = siputils(), context(), reply_context()
    assert [module.is_request(request), module.is_reply(request)] == [1, -1]
    assert [module.is_request(reply), module.is_reply(reply)] == [-1, 1]
    assert [module.is_sip(request), module.is_http(request), module.sip_parse_headers(request)] == [1, -1, 1]
    assert module.has_totag(request) == -1
    assert module.has_totag(context(to="<sip:bob@example.test>;tag=x")) == 1
    with pytest.raises(ParseError):
        module.sip_parse_headers(context(cseq="x"))


def test_is_user_believes_checked_credentials_only() -> None:
    digest = 'Digest username="alice", realm="r", nonce="n", uri="sip:x", response="0"'
    module, ctx = siputils(), context("sip:bob@example.test", f"Proxy-Authorization: {digest}")
    assert module.is_user(ctx, "alice") == -1
    ctx.cache["auth.authorized"] = ctx.message.indexes("proxy-authorization")  # as auth notes it
    assert [module.is_user(ctx, "alice"), module.is_user(ctx, "bob")] == [1, -1]


def test_the_first_hop_of_a_request_has_one_via() -> None:
    module = siputils()
    assert module.is_first_hop(context()) == 1
    assert module.is_first_hop(context("sip:bob@example.test", "Via: SIP/2.0/UDP 10.0.0.1;branch=1")) == -1
    assert module.is_first_hop(context(via="SIP/2.0/UDP 192.0.2.10;branch=1, SIP/2.0/UDP 10.0.0.1;branch=1")) == -1


def test_the_first_hop_of_a_reply_has_our_record_route_on_top() -> None:
    module = siputils()
    ours, theirs = reply_context("Record-Route: <sip:192.0.2.1;lr>"), reply_context("Record-Route: <sip:192.0.2.9;lr>")
    assert [module.is_first_hop(ours), module.is_first_hop(theirs), module.is_first_hop(reply_context())] == [1, -1, -1]
    ours.flow = Flow(LISTENER, "192.0.2.1", 5060)  # from ourselves: a loop
    assert [module.is_first_hop(ours), module.is_first_hop_mode(ours, 1)] == [-1, 1]


@pytest.mark.parametrize(
    ("text", "tel", "numeric", "alphanum", "with_plus"),
    [
        ("+123", 1, -2, -3, 1),
        ("123", 1, 1, 1, 1),
        ("12a", -2, -2, 1, 1),
        ("", -2, -2, -2, -2),
        ("\xb2", -2, -2, -3, -3),
    ],
)
def test_tests_of_text(text: str, tel: int, numeric: int, alphanum: int, with_plus: int) -> None:
    module, ctx = siputils(), context()
    assert module.is_tel_number(ctx, text) == tel
    assert module.is_numeric(ctx, text) == numeric
    assert module.is_alphanum(ctx, text) == alphanum
    assert module.is_alphanumex(ctx, text, "+") == with_plus


@pytest.mark.parametrize("uri", ["sip:a@b", "sip:b", "tel:123", "urn:x:y"])
def test_what_is_a_uri(uri: str) -> None:
    assert siputils().is_uri(context(), uri) == 1


@pytest.mark.parametrize("text", ["a@b", "sip:", ""])
def test_what_is_no_uri(text: str) -> None:
    with pytest.raises(ParseError):  # -1 for the script
        siputils().is_uri(context(), text)


def test_comparisons() -> None:
    module, ctx = siputils(), context()
    assert module.cmp_uri(ctx, "sip:A@b", "sip:A@B") == 1
    assert module.cmp_uri(ctx, "sip:A@b", "sip:a@B") == -1
    assert module.cmp_aor(ctx, "sip:A@b:5060", "sip:A@B;x") == 1
    assert module.cmp_aor(ctx, "sip:A@b", "sip:c@b") == -1
    assert module.cmp_hdr_name(ctx, "f", "From") == 1
    assert module.cmp_hdr_name(ctx, "x", "From") == -1
    assert module.cmp_hdr_name(ctx, "", "From") == -2


def test_parameters_of_the_request_uri() -> None:
    module, ctx = siputils(), context("sip:bob@example.test;p;v=1")
    assert [module.uri_param(ctx, "p"), module.uri_param(ctx, "v"), module.uri_param(ctx, "z")] == [1, -1, -1]
    assert [module.uri_param_value(ctx, "v", "1"), module.uri_param_value(ctx, "v", "2")] == [1, -1]
    assert [module.uri_param_any(ctx, "v"), module.uri_param_any(ctx, "p"), module.uri_param_any(ctx, "z")] == [
        1,
        1,
        -1,
    ]
    assert module.uri_param_rm(ctx, "V") == 1
    assert ctx.ruri == "sip:bob@example.test;p"
    assert module.uri_param_rm(ctx, "v") == 1
    assert module.add_uri_param(ctx, "n=1") == 1
    assert ctx.ruri == "sip:bob@example.test;p;n=1"
    assert module.add_uri_param(ctx, "n=1 SIP/2.0\r\n") == -1


@pytest.mark.parametrize(("param", "kind"), [(";gr=x", 1), (";gr", 2), ("", -1)])
def test_is_gruu(param: str, kind: int) -> None:
    assert siputils().is_gruu(context("sip:bob@example.test" + param)) == kind


def test_options_are_answered_with_what_we_accept() -> None:
    made = services(Sl, SipUtils)
    module = made.modules["siputils"]
    assert module.options_reply(request_context(message("OPTIONS sip:example.test SIP/2.0"))) == 1
    [reply] = replies(made)
    assert headers(reply, "Accept") == ["*/*"]
    assert headers(reply, "Accept-Language") == ["en"]
    assert module.options_reply(request_context(message("OPTIONS sip:bob@example.test SIP/2.0"))) == -1
    assert module.options_reply(context("sip:example.test")) == -1
    assert replies(made) == []


@pytest.mark.parametrize(
    ("contact_uri", "encoded", "decoded"),
    [
        (
            "sip:a:pw@1.1.1.1:99;transport=tcp;x",
            "sip:pre*a*pw*1.1.1.1*99*tcp@4.4.4.4",
            "sip:a:pw@1.1.1.1:99;transport=tcp",
        ),
        ("sip:1.1.1.1", "sip:pre***1.1.1.1**@4.4.4.4", "sip:1.1.1.1"),
    ],
)
def test_a_contact_is_hidden_and_found_again(contact_uri: str, encoded: str, decoded: str) -> None:
    module, ctx = siputils(), context("sip:bob@example.test", f"Contact: <{contact_uri}>;q=1")
    assert module.encode_contact(ctx, "pre", "4.4.4.4") == 1
    assert contact(ctx) == [f"<{encoded}>;q=1"]
    request = context(encoded, f"Contact: <{encoded}>")
    assert module.decode_contact(request) == 1
    assert request.ruri == decoded
    assert module.decode_contact_header(request) == 1
    assert contact(request) == [f"<{decoded}>"]


def test_what_is_not_hidden_is_left_alone() -> None:
    module, ctx = siputils(), context("sip:bob@example.test", "Contact: <sip:a@b>")
    assert [module.decode_contact(ctx), module.decode_contact_header(ctx)] == [-26, -1]
    assert module.decode_contact(context("sip:pre*a*b*<*c*d@x".replace("<", "["))) == -26
    assert ctx.ruri == "sip:bob@example.test"
    assert contact(ctx) == ["<sip:a@b>"]
    assert siputils().encode_contact(context(), "pre", "4.4.4.4") == -1


def test_the_separator_is_a_parameter() -> None:
    ctx = context("sip:bob@example.test", "Contact: <sip:a@1.1.1.1>")
    siputils(contact_flds_separator="-").encode_contact(ctx, "pre", "4.4.4.4")
    assert contact(ctx) == ["<sip:pre-a--1.1.1.1--@4.4.4.4>"]


def test_a_contact_travels_in_a_parameter() -> None:
    module, ctx = siputils(), context("sip:bob@example.test", "Contact: <sip:a@1.1.1.1:99;x>;expires=60")
    assert [module.contact_param_check(ctx, "x"), module.contact_param_check(ctx, "zz")] == [1, -1]
    assert module.contact_param_encode(ctx, "ksu", "sip:4.4.4.4:5060") == 1
    [encoded] = contact(ctx)
    assert encoded.startswith("<sip:4.4.4.4:5060;ksu=")
    uri = encoded[1 : encoded.index(">")]
    back = context(uri, f"Contact: {encoded}")
    assert [module.contact_param_decode(back, "ksu"), module.contact_param_decode_ruri(back, "ksu")] == [1, 1]
    assert contact(back) == ["<sip:a@1.1.1.1:99;x>;expires=60"]
    assert back.ruri == "sip:a@1.1.1.1:99;x"
    assert module.contact_param_rm(back, "x") == 1
    assert contact(back) == ["<sip:a@1.1.1.1:99>;expires=60"]


def test_the_alias_of_the_source_travels_too() -> None:
    module, ctx = siputils(), context("sip:bob@example.test", "Contact: <sip:a@10.0.0.1>")
    assert module.contact_param_encode_alias(ctx, "ksu", "sip:4.4.4.4") == 1
    [encoded] = contact(ctx)
    back = context(encoded[1:-1])
    assert module.contact_param_decode_ruri(back, "ksu") == 1
    assert back.ruri == "sip:a@10.0.0.1;alias=192.0.2.10~5060~1"


@pytest.mark.parametrize("value", ["", "!!!!", "bm8gdXJp", "\xff"])
def test_a_parameter_that_holds_no_uri_is_not_decoded(value: str) -> None:
    ctx = context(f"sip:4.4.4.4;ksu={value}")
    assert siputils().contact_param_decode_ruri(ctx, "ksu") == -1


@pytest.mark.parametrize(
    ("date", "result"),
    [
        ("Fri, 15 Jan 2027 07:59:55 GMT", 1),
        ("Fri, 15 Jan 2027 07:00:00 GMT", -4),
        ("yesterday", -1),
        ("", -1),
    ],
)
def test_hdr_date_check(date: str, result: int) -> None:
    ctx = context("sip:bob@example.test", *([f"Date: {date}"] if date else []))
    assert NOW == 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT
    assert siputils().hdr_date_check(ctx, 10) == result
