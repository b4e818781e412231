"""textops: search, replace and remove text in messages."""

from __future__ import annotations

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.modules.sl import Sl
from polykemi.modules.textops import TextOps
from polykemi.sip.build import forward_request
from polykemi.sip.message import Request, parse
from tests.support import headers, message, replies, request_context, services

SDP = (
    "v=0\r\no=u 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8\r\na=sendrecv\r\n"
)
LINES = ("User-Agent: Phone 1.0 (phone)", "X-Info: one", "X-Info: two", "P-Hint: a", "Content-Type: application/sdp")


def context(*lines: str, body: str = SDP, uri: str = "sip:bob@example.test") -> RouteContext:
    return request_context(message(f"INVITE {uri} SIP/2.0", *(lines or LINES), body=body))


def textops() -> TextOps:
    return TextOps(services())


def sent(ctx: RouteContext) -> Request:
    """Return the request as the next hop gets it."""
    request = parse(forward_request(ctx.request, ctx.edits, uri=ctx.ruri, via="SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKo"))
    assert isinstance(request, Request)
    assert request.content_length == request.body_size
    return request


@pytest.mark.parametrize(
    ("pattern", "result"),
    [
        ("PHONE 1", 1),  # either case
        ("^x-info: *t[a-z]o.$", 1),  # lines, whose end is the LF
        ("^INVITE", 1),
        ("[[:digit:]]+ [[:upper:]]TP/AVP", 1),
        ("[^[:space:]]+@example\\.test", 1),
        ("no such thing", -1),
        ("(", -1),
        ("[[:nonsense:]]", -1),
        ("one.*two", -1),  # a dot is no end of line
        ("one[^x]*two", -1),
    ],
)
def test_search(pattern: str, result: int) -> None:
    assert textops().search(context(), pattern) == result


def test_search_in_parts() -> None:
    module, ctx = textops(), context()
    assert [module.search_body(ctx, "^m=audio"), module.search_body(ctx, "X-Info")] == [1, -1]
    assert [module.search_hf(ctx, "x-info", "two", flags) for flags in "afl"] == [1, -1, 1]
    assert [module.search_str(ctx, "a;transport=tcp", ";TRANSPORT=tcp$"), module.search_str(ctx, "a", "b")] == [1, -1]


def test_replace_changes_the_first_match_and_replace_all_every_one() -> None:
    module, first, every = textops(), context(), context()
    assert module.replace(first, "10\\.0\\.0\\.1", "192.0.2.77") == 1
    assert module.replace_all(every, "10\\.0\\.0\\.1", "192.0.2.77") == 1
    assert sent(first).body.count(b"192.0.2.77") == 1
    assert sent(every).body.count(b"192.0.2.77") == 2
    assert module.replace(first, "nothing", "x") == -1
    assert module.replace(first, "(", "x") == -1


def test_replace_takes_the_new_text_as_it_is() -> None:
    ctx = context()
    assert textops().replace_hdrs(ctx, "one|two", "\\1 $ru") == 1
    assert sent(ctx).all("x-info") == ["\\1 $ru", "\\1 $ru"]


def test_replace_strings() -> None:
    module, ctx = textops(), context()
    assert module.replace_str(ctx, "(phone)", "[x]", "f") == 1
    assert module.replace_hdrs_str(ctx, "X-Info", "X-Other", "f") == 1
    assert module.replace_body_str(ctx, "IN IP4", "IN IP6", "a") == 1
    assert (
        module.replace_body_str(ctx, "nothing", "x", "a") == 1
    )  # Kamailio tells whether it could look, not whether it found
    assert module.replace_str(ctx, "", "x", "a") == 1
    request = sent(ctx)
    assert request.get("user-agent") == "Phone 1.0 [x]"
    assert (request.all("x-other"), request.all("x-info")) == (["one"], ["two"])
    assert request.body.count(b"IP6") == 2


def test_bodies_are_replaced() -> None:
    module, first, every, all_at_once = textops(), context(), context(), context()
    assert module.replace_body(first, "IN IP4", "X") == 1
    assert module.replace_body_all(every, "IN IP4", "X") == 1
    assert module.replace_body_atonce(all_at_once, "^.+$", "gone") == 1
    assert [sent(ctx).body.count(b"X") for ctx in (first, every)] == [1, 2]
    assert set(sent(all_at_once).body.split(b"\n")) == {b"gone", b""}
    assert module.replace_body(context(body=""), "a", "b") == -1


def test_text_is_appended_behind_a_match() -> None:
    module, ctx = textops(), context()
    assert module.search_append(ctx, "X-Info: one", ";more") == 1
    assert module.search_append_body(ctx, "a=sendrecv\r\n", "a=ptime:20\r\n") == 1
    assert module.search_append(ctx, "(", "x") == -1
    assert sent(ctx).all("x-info") == ["one;more", "two"]
    assert sent(ctx).body.endswith(b"a=sendrecv\r\na=ptime:20\r\n")


def test_changes_stand_at_their_places_in_the_message_that_came() -> None:
    module, ctx = textops(), context()
    assert module.replace(ctx, "Phone 1", "Phone 2") == 1
    assert module.replace(ctx, "Phone 2", "Phone 3") == -1
    assert module.replace(ctx, "\\(phone", "[soft") == 1
    assert sent(ctx).get("user-agent") == "Phone 2.0 [soft)"


@pytest.mark.parametrize(
    ("expression", "result", "ruri"),
    [
        ("/^sip:([0-9]+)@(.*)$/sip:+\\1@\\2/", 1, "sip:+123@example.test"),
        ("#sip:#sips:#", 1, "sips:123@example.test"),
        ("/SIP:/sips:/i", 1, "sips:123@example.test"),
        ("/e/E/g", 1, "sip:123@ExamplE.tEst"),
        ("/123/$fU/", 1, "sip:alice@example.test"),
        ("/123/a$/", -1, "sip:123@example.test"),
        ("/123/\\0\\/4/", 1, "sip:123/4@example.test"),
        ("/SIP:/sips:/", -1, "sip:123@example.test"),
        ("/nothing/x/", -1, "sip:123@example.test"),
        ("/a/b", -1, "sip:123@example.test"),
        ("/a/b/z", -1, "sip:123@example.test"),
        ("/a/\\1/", 1, "sip:123@exmple.test"),  # a group that there is not
        ("/(/b/", -1, "sip:123@example.test"),
        ("//b/", -1, "sip:123@example.test"),
        ("", -1, "sip:123@example.test"),
    ],
)
def test_subst_uri(expression: str, result: int, ruri: str) -> None:
    ctx = context(uri="sip:123@example.test")
    assert textops().subst_uri(ctx, expression) == result
    assert ctx.ruri == ruri


def test_subst_of_user_headers_and_body() -> None:
    module, ctx = textops(), context(uri="sip:00491234@example.test")
    assert module.subst_user(ctx, "/^00/+/") == 1
    assert ctx.ruri == "sip:+491234@example.test"
    assert module.subst_user(ctx, "/^00/+/") == -1
    assert module.subst_hf(ctx, "X-Info", "/o/0/g", "l") == 1
    assert module.subst_hf(ctx, "X-Info", "/q/0/g", "a") == -1
    assert module.subst_body(ctx, "/^m=audio [0-9]+/m=audio 5000/") == 1
    assert module.subst(ctx, "/phone/thing/") == 1
    request = sent(ctx)
    assert request.all("x-info") == ["one", "tw0"]
    assert b"m=audio 5000 RTP" in request.body
    assert request.get("user-agent") == "Phone 1.0 (thing)"


@pytest.mark.parametrize("function", ["subst", "subst_body", "subst_user"])
def test_a_bad_substitution_changes_nothing(function: str) -> None:
    ctx = context()
    assert getattr(textops(), function)(ctx, "/(/x/") == -1
    assert textops().subst_hf(ctx, "X-Info", "/(/x/", "a") == -1
    assert textops().subst_v(ctx, "text", "/(/x/", "$var(r)") == -1
    assert not ctx.edits


def test_results_go_into_variables() -> None:
    made = services()
    module, ctx = TextOps(made), context()
    result = made.variables.getters["$var(r)"]
    assert module.subst_v(ctx, "abc", "/b/x/", "$var(r)") == 1
    assert result(ctx) == "axc"
    assert module.regex_substring(ctx, "__ abc123def __", "([a-z]+)([0-9]+)([a-z]+)", 2, 3, "$var(r)") == 1
    assert result(ctx) == "123"
    assert module.regex_substring(ctx, "__", "([0-9]+)", 1, 1, "$var(r)") == -1
    assert module.regex_substring(ctx, "12", "([0-9]+)", 4, 9, "$var(r)") == -1
    assert module.regex_substring(ctx, "12", "(", 0, 0, "$var(r)") == -1
    assert module.subst_v(ctx, "abc", "/b/x/", "$si") == -1


def test_headers_are_found_and_removed_by_name() -> None:
    module, ctx = textops(), context()
    assert [module.is_present_hf(ctx, "v"), module.is_present_hf(ctx, "X-None")] == [1, -1]
    assert [module.is_present_hf_re(ctx, "^p-"), module.is_present_hf_re(ctx, "^q-")] == [1, -1]
    assert [module.remove_hf(ctx, "X-INFO"), module.remove_hf(ctx, "X-None")] == [1, 1]
    assert [module.remove_hf_re(ctx, "^P-"), module.remove_hf_re(ctx, "^Q-")] == [1, -1]
    request = sent(ctx)
    assert request.get("x-info") is None
    assert request.get("p-hint") is None
    assert request.get("user-agent") is not None


@pytest.mark.parametrize(("index", "left"), [(0, ["two"]), (-1, ["one"]), (1, ["one"])])
def test_one_header_of_several_is_removed(index: int, left: list[str]) -> None:
    ctx = context()
    assert textops().remove_hf_idx(ctx, "X-Info", index) == 1
    assert sent(ctx).all("x-info") == left
    assert textops().remove_hf_idx(ctx, "X-Info", 5) == 2


@pytest.mark.parametrize(
    ("operator", "text", "left"),
    [("eq", "one", ["two"]), ("ne", "one", ["one"]), ("in", "w", ["one"]), ("re", "^O", ["two"])],
)
def test_headers_are_removed_by_value(operator: str, text: str, left: list[str]) -> None:
    ctx = context()
    assert textops().remove_hf_match(ctx, "X-Info", operator, text) == 1
    assert sent(ctx).all("x-info") == left
    assert textops().remove_hf_match(ctx, "X-Info", "??", text) == -1


def test_headers_are_removed_but_for_some() -> None:
    ctx = context()
    assert textops().remove_hf_exp(ctx, "^(X|P)-", "^P-") == 1
    assert sent(ctx).all("x-info") == []
    assert sent(ctx).get("p-hint") == "a"


def test_privacy() -> None:
    ctx = context("Privacy: id; Header")
    assert [textops().is_privacy(ctx, kind) for kind in ("id", "header", "user")] == [1, 1, -1]


def test_body_and_its_type() -> None:
    module = textops()
    assert [module.has_body(context()), module.has_body(context(body=""))] == [1, -1]
    assert module.has_body_type(context(), "APPLICATION/sdp") == 1
    assert module.has_body_type(context(), "text/plain") == -1
    assert module.has_body_type(context(body=""), "application/sdp") == -1
    assert module.has_body_type(context("c: text/plain; charset=utf-8"), "text/plain") == 1


def test_a_new_body_comes_with_its_type_and_length() -> None:
    module, typed, hexed, added = textops(), context(), context(), context("X: y", body="")
    assert module.set_body(typed, "hello", "text/plain") == 1
    assert module.set_body_hex(hexed, "00ff", "application/sdp") == 1
    assert module.set_body(added, "hi", "text/plain") == 1
    assert (sent(typed).body, sent(typed).all("content-type")) == (b"hello", ["text/plain"])
    assert (sent(hexed).body, sent(hexed).all("content-type")) == (b"\x00\xff", ["application/sdp"])
    assert (sent(added).body, sent(added).all("content-type")) == (b"hi", ["text/plain"])
    assert module.set_body_hex(hexed, "xyz", "") == -1
    assert module.set_body(context(), "hello", "") == -1
    assert module.set_body(context(), "", "text/plain") == -1
    assert module.set_body(typed, "hello", "text/plain\r\nX: y") == -1


def test_replies_carry_the_body_that_was_set() -> None:
    made = services(Sl, TextOps)
    ctx = context()
    module = made.modules["textops"]
    assert module.set_reply_body(ctx, "wrong", "text/html") == 1
    assert module.set_reply_body_hex(ctx, "6869", "text/plain") == 1
    assert [module.set_reply_body(ctx, "", "text/plain"), module.set_reply_body(ctx, "x", "")] == [-1, -1]
    assert module.set_reply_body_hex(ctx, "x", "text/plain") == -1
    made.modules["sl"].sl_send_reply(ctx, 200, "OK")
    [reply] = replies(made)
    assert headers(reply, "Content-Type") == ["text/plain"]
    assert reply.endswith("\r\n\r\nhi")


@pytest.mark.parametrize(
    ("sdp", "hold"),
    [
        (SDP, -1),
        (SDP.replace("c=IN IP4 10.0.0.1", "c=IN IP4 0.0.0.0"), 1),
        (SDP.replace("sendrecv", "sendonly"), 2),
        (SDP.replace("sendrecv", "inactive"), 2),
        (SDP.replace("m=audio", "m=video").replace("sendrecv", "inactive"), -1),
        ("", -1),
    ],
)
def test_is_audio_on_hold(sdp: str, hold: int) -> None:
    assert textops().is_audio_on_hold(context(body=sdp)) == hold


def test_string_tests() -> None:
    module, ctx = textops(), context()
    results = [
        module.in_list(ctx, "fi", "dk,fi,no", ","),
        module.in_list_prefix(ctx, "final", "dk,fi,no", ","),
        module.cmp_str(ctx, "a", "a"),
        module.cmp_istr(ctx, "aB", "Ab"),
        module.starts_with(ctx, "abc", "ab"),
        module.ends_with(ctx, "abc", "bc"),
        module.str_find(ctx, "abc", "a"),
        module.str_ifind(ctx, "abc", "A"),
        module.str_any_in(ctx, "abc", "xc"),
        module.str_all_in(ctx, "abc", "ca"),
    ]
    assert results == [1] * 10
    results = [
        module.in_list(ctx, "f", "dk,fi,no", ","),
        module.in_list(ctx, "f", "f", ""),
        module.in_list_prefix(ctx, "x", "dk,,no", ","),
        module.cmp_str(ctx, "a", "A"),
        module.cmp_istr(ctx, "\xe4", "\xc4"),  # octets, not letters
        module.starts_with(ctx, "abc", "abcd"),
        module.ends_with(ctx, "abc", "zabc"),
        module.str_find(ctx, "abc", "B"),
        module.str_ifind(ctx, "abc", "x"),
        module.str_any_in(ctx, "abc", "xy"),
        module.str_all_in(ctx, "abc", "cx"),
    ]
    assert results == [-1] * 11
    assert [module.cmp_str(ctx, "A", "a"), module.cmp_istr(ctx, "a", "B"), module.starts_with(ctx, "abc", "b")] == [
        -2
    ] * 3
    assert [module.str_find(ctx, "abc", "c"), module.str_ifind(ctx, "abc", "BC")] == [3, 2]  # where it is


def test_the_headers_are_one_text() -> None:
    module, ctx = textops(), context()
    assert module.replace(ctx, "X-Info: one\r\nX-Info: two\r\n", "") == 1
    assert module.search_append(ctx, "P-Hint: .*\n", "X-Last: 1\r\n") == 1
    assert module.replace_hdrs(ctx, "User-Agent: (.*)\r\n", "X-Agent: 1\r\nX-More: 2\r\n") == 1
    request = sent(ctx)
    assert (request.all("x-info"), request.all("x-last")) == ([], ["1"])
    assert (request.get("user-agent"), request.get("x-agent"), request.get("x-more")) == (None, "1", "2")
