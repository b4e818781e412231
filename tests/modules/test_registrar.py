"""registrar and usrloc: REGISTERs in, replies and bindings out; requests in, destination sets out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.errors import PolykemiError, SipError
from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Services
from polykemi.modules.registrar import Registrar
from polykemi.modules.registrar_contacts import parse_q, render_q
from polykemi.modules.sl import Sl
from polykemi.modules.usrloc import Usrloc
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import Binding
from polykemi.transaction.target import Target
from tests.support import LISTENER, NOW, headers, message, replies, request_context, services


def server(registrar: dict[str, Any] | None = None, usrloc: dict[str, Any] | None = None, **more: Any) -> Services:
    return services(Sl, Usrloc, Registrar, params={"registrar": registrar or {}, "usrloc": usrloc or {}}, **more)


def register(
    made: Services, *lines: str, now: float = NOW, flags: int = 0, cseq: int = 1, **more: Any
) -> tuple[int, str]:
    """Send a REGISTER; return the result of save() and the reply."""
    cache = more.pop("cache", {})
    setup = more.pop("setup", lambda ctx: None)
    ctx = request_context(
        message("REGISTER sip:example.test SIP/2.0", *lines, cseq=f"{cseq} REGISTER", **more), now=now
    )
    ctx.cache.update(cache)
    setup(ctx)
    result = made.modules["registrar"].save(ctx, "location", flags)
    made.location.commit()
    (reply,) = replies(made) or [""]
    return result, reply


def contact(reply: str) -> str:
    return ", ".join(headers(reply, "Contact"))


def status(reply: str) -> int:
    return int(reply[8:11])


def uris(made: Services, aor: str = "alice") -> list[str]:
    return [b.uri for b in made.location.get("location", aor)]


def invite(uri: str = "sip:alice@example.test", *lines: str, now: float = NOW, **more: Any) -> RouteContext:
    return request_context(message(f"INVITE {uri} SIP/2.0", *lines, **more), now=now)


# ---- save
def test_a_contact_is_inserted_refreshed_and_removed() -> None:
    made = server()
    assert register(made) == (4, register(made)[1])
    result, reply = register(made, "Contact: <sip:alice@192.0.2.10>")
    assert (result, status(reply), contact(reply)) == (1, 200, "<sip:alice@192.0.2.10>;expires=3600")
    result, reply = register(made, "Contact: <sip:alice@192.0.2.10>;expires=100", cseq=2, now=NOW + 10)
    assert (result, contact(reply)) == (2, "<sip:alice@192.0.2.10>;expires=100")
    result, reply = register(made, now=NOW + 50)
    assert (result, contact(reply)) == (4, "<sip:alice@192.0.2.10>;expires=60")
    result, reply = register(made, "Contact: <sip:alice@192.0.2.10>", "Expires: 0", cseq=3)
    assert (result, status(reply), contact(reply)) == (3, 200, "")
    assert uris(made) == []


def test_what_a_register_says_is_kept_with_the_contact() -> None:
    made = server({"use_path": 1, "path_mode": 0})
    register(
        made,
        'Contact: <sip:alice@10.0.0.1>;q=0.7;+sip.instance="<urn:uuid:1>";reg-id=2',
        "User-Agent: Phone 1",
        "Allow: INVITE, BYE",
        "Path: <sip:edge;lr>, <sip:core;lr>",
        cseq=7,
        cache={"received": "sip:198.51.100.7:1024"},
        setup=lambda ctx: setattr(ctx, "bflags", 8),
    )
    (binding,) = made.location.get("location", "alice")
    ruid = binding.ruid
    assert ruid.startswith("uloc-")
    assert binding == Binding(
        "sip:alice@10.0.0.1", NOW + 3600, 700, "call-1@192.0.2.10", 7, "Phone 1", "sip:198.51.100.7:1024",
        "<sip:edge;lr>, <sip:core;lr>", "udp:192.0.2.1:5060", 0b1001, 0, 8, "<urn:uuid:1>", 2, ruid, NOW,
    )  # fmt: skip


def test_the_200_lists_all_contacts_with_their_parameters_the_best_first() -> None:
    made = server()
    _, reply = register(
        made,
        "Contact: <sip:a@192.0.2.11>;q=0.25, <sip:b@192.0.2.12>",
        'm: <sip:c@192.0.2.13>;q=1.0;expires=77;+sip.instance="<urn:uuid:1>";reg-id=1',
        "Expires: 900",
        cache={"received": "sip:198.51.100.7:1024"},
    )
    rcv = ';received="sip:198.51.100.7:1024"'
    assert headers(reply, "Contact") == [
        (
            f'<sip:c@192.0.2.13>;q=1;expires=77{rcv};+sip.instance="<urn:uuid:1>";reg-id=1, '
            f"<sip:a@192.0.2.11>;q=0.25;expires=900{rcv}, <sip:b@192.0.2.12>;expires=900{rcv}"
        )
    ]


def test_an_instance_is_given_back_as_it_came() -> None:
    made = server()
    _, reply = register(made, r'Contact: <sip:a@h>;+sip.instance="a\"b\\"')
    assert contact(reply) == r'<sip:a@h>;expires=3600;+sip.instance="a\"b\\"'
    assert made.location.get("location", "alice")[0].instance == 'a"b\\'


@pytest.mark.parametrize(
    "params, lines, expires",
    [
        ({}, ["Contact: <sip:a@h>"], 3600),
        ({"default_expires": 1800}, ["Contact: <sip:a@h>"], 1800),
        ({}, ["Contact: <sip:a@h>", "Expires: 120"], 120),
        ({}, ["Contact: <sip:a@h>;expires=130", "Expires: 120"], 130),
        ({}, ["Contact: sip:a@h;expires=130"], 130),
        ({}, ["Contact: <sip:a@h>;expires=5"], 60),
        ({"min_expires": 0}, ["Contact: <sip:a@h>;expires=5"], 5),
        ({"max_expires": 100}, ["Contact: <sip:a@h>;expires=500"], 100),
        ({"max_expires": 100}, ["Contact: <sip:a@h>"], 100),
        ({}, ["Contact: <sip:a@h>;expires=soon"], 3600),
        ({}, ["Contact: <sip:a@h>", "Expires: Thu, 01 Dec 1994 16:00:00 GMT"], 3600),
        ({}, ["Contact: <sip:a@h>;expires=99999999999999"], 3600),
        ({}, ["Contact: <sip:a@h>;expires=9999999999"], (1 << 32) - 1),
    ],
)
def test_how_long_a_contact_is_kept(params: dict[str, Any], lines: list[str], expires: int) -> None:
    made = server(params)
    result, reply = register(made, *lines)
    assert (result, contact(reply)) == (1, f"<sip:a@h>;expires={expires}")
    assert made.location.get("location", "alice")[0].expires == NOW + expires


def test_an_interval_too_brief_is_refused_when_min_expires_mode_says_so() -> None:
    made = server({"min_expires": 300, "min_expires_mode": 1})
    result, reply = register(made, "Contact: <sip:a@h>;expires=60")
    assert (result, status(reply), headers(reply, "Min-Expires")) == (-1, 423, ["300"])
    assert uris(made) == []
    assert register(made, "Contact: <sip:a@h>;expires=300")[0] == 1


def test_ranges_spread_the_expiry_of_contacts() -> None:
    made = server({"default_expires_range": 30, "expires_range": 50})
    seen = set()
    for n in range(30):
        register(made, "Contact: <sip:a@h>", to=f"<sip:u{n}@example.test>")
        seen.add(made.location.get("location", f"u{n}")[0].expires - NOW)
    assert len(seen) > 10
    assert min(seen) >= 2520
    assert max(seen) <= 3600
    register(made, "Contact: <sip:a@h>;expires=1000", flags=8)
    assert made.location.get("location", "alice")[0].expires == NOW + 1000


def test_star_removes_all_contacts() -> None:
    made = server()
    register(made, "Contact: <sip:a@h>, <sip:b@h>")
    result, reply = register(made, "Contact: *", "Expires: 0", cseq=2)
    assert (result, status(reply), contact(reply)) == (3, 200, "")
    assert uris(made) == []


@pytest.mark.parametrize(
    "lines",
    [
        ["Contact: *"],
        ["Contact: *", "Expires: 10"],
        ["Contact: *, <sip:a@h>", "Expires: 0"],
        ["Contact: *", "Contact: <sip:a@h>", "Expires: 0"],
        ["Contact:"],
        ["Contact: bogus"],
        ["Contact: <sip:a@h"],
        ["Contact: <sip:>"],
        ["Contact: <sip:good@h>, <sip:a@h>;q=7"],
        ["Contact: <sip:good@h>, <sip:a@h>;q=x"],
        ["Contact: <sip:good@h>", "Contact: <sip:" + "h" * 600 + ">"],
    ],
)
def test_a_malformed_contact_changes_nothing_and_gets_400(lines: list[str]) -> None:
    made = server()
    register(made, "Contact: <sip:old@h>")
    result, reply = register(made, *lines, cseq=2)
    assert (result, status(reply)) == (-1, 400)
    assert headers(reply, "P-Registrar-Error")
    assert uris(made) == ["sip:old@h"]


def test_a_register_that_comes_late_changes_nothing() -> None:
    made = server()
    register(made, "Contact: <sip:a@h>;expires=100", cseq=5)
    for lines in (["Contact: <sip:a@h>;expires=0"], ["Contact: <sip:b@h>, <sip:a@h>"], ["Contact: *", "Expires: 0"]):
        result, reply = register(made, *lines, cseq=4)
        assert (result, status(reply)) == (-1, 400)
        assert uris(made) == ["sip:a@h"]
    assert register(made, "Contact: <sip:a@h>;expires=0", cseq=1, call_id="another")[0] == 3


def test_the_same_register_again_is_a_retransmission_for_twenty_seconds() -> None:
    made = server()
    first = register(made, "Contact: <sip:a@h>", cseq=5)[1]
    result, again = register(made, "Contact: <sip:a@h>", cseq=5, now=NOW + 1)
    assert (result, status(again)) == (1, 200)
    assert made.location.get("location", "alice")[0].modified == NOW
    assert contact(first) == "<sip:a@h>;expires=3600"
    result, late = register(made, "Contact: <sip:a@h>", cseq=5, now=NOW + 21)
    assert (result, status(late)) == (-1, 400)


def test_several_phones_of_one_user_do_not_disturb_each_other() -> None:
    made = server()
    for n in range(3):
        register(made, f"Contact: <sip:alice@192.0.2.{n}>", call_id=f"phone{n}", now=NOW + n)
    register(made, "Contact: <sip:alice@192.0.2.1>;expires=100", call_id="phone1", cseq=2, now=NOW + 5)
    register(made, "Contact: <sip:alice@192.0.2.0>;expires=0", call_id="phone0", cseq=2, now=NOW + 6)
    _, reply = register(made, now=NOW + 6)
    assert contact(reply) == "<sip:alice@192.0.2.1>;expires=99, <sip:alice@192.0.2.2>;expires=3596"


def test_contacts_are_compared_as_uris() -> None:
    made = server()
    register(made, "Contact: <sip:alice@PHONE.test;transport=udp;x=1>")
    assert register(made, "Contact: <SIP:%61lice@phone.test;Transport=UDP>", cseq=2)[0] == 2
    assert register(made, "Contact: <sip:Alice@phone.test;transport=udp>", cseq=3)[0] == 1
    assert len(uris(made)) == 2


@pytest.mark.parametrize(
    "mode, call_id, path, left",
    [(0, "c2", "p2", 1), (1, "c1", "p2", 1), (1, "c2", "p1", 2), (2, "c2", "p1", 1), (2, "c1", "p2", 2)],
)
def test_matching_mode_decides_what_is_the_same_contact(mode: int, call_id: str, path: str, left: int) -> None:
    made = server({"use_path": 1, "path_mode": 0}, {"matching_mode": mode})
    register(made, "Contact: <sip:a@h>", "Path: <sip:p1;lr>", call_id="c1")
    register(made, "Contact: <sip:a@h>", f"Path: <sip:{path};lr>", call_id=call_id, cseq=2)
    assert len(uris(made)) == left


def test_matching_by_call_id_only_replaces_a_contact_that_has_moved() -> None:
    made = server(usrloc={"matching_mode": 3})
    register(made, "Contact: <sip:a@192.0.2.1>")
    assert register(made, "Contact: <sip:a@192.0.2.2>", cseq=2)[0] == 2
    assert uris(made) == ["sip:a@192.0.2.2"]


def test_an_instance_with_reg_id_keeps_one_contact_per_flow() -> None:
    made = server()
    for n, reg_id in enumerate((1, 2, 1)):
        register(made, f'Contact: <sip:a@192.0.2.{n}>;+sip.instance="<urn:uuid:1>";reg-id={reg_id}', call_id=f"c{n}")
    assert uris(made) == ["sip:a@192.0.2.2", "sip:a@192.0.2.1"]


def test_too_many_contacts_are_refused_and_refreshing_still_works() -> None:
    made = server({"max_contacts": 1, "retry_after": 30})
    register(made, "Contact: <sip:a@h>")
    result, reply = register(made, "Contact: <sip:b@h>", call_id="other")
    assert (result, status(reply), headers(reply, "Retry-After")) == (-2, 503, ["30"])
    assert uris(made) == ["sip:a@h"]
    assert register(made, "Contact: <sip:a@h>", cseq=2)[0] == 2
    assert register(made, "Contact: <sip:a@h>;expires=0, <sip:b@h>", cseq=3)[0] == 3
    assert uris(made) == ["sip:b@h"]
    assert register(made, "Contact: <sip:c@h>", cseq=1, now=NOW + 4000)[0] == 1  # the other one has expired


def test_flag_4_keeps_one_contact() -> None:
    made = server()
    register(made, "Contact: <sip:a@h>, <sip:b@h>")
    assert register(made, "Contact: <sip:c@h>", flags=4, cseq=2)[0] == 1
    assert uris(made) == ["sip:c@h"]


def test_flag_2_holds_the_reply_back() -> None:
    made = server()
    ctx = request_context(message("REGISTER sip:example.test SIP/2.0", "Contact: <sip:a@h>"))
    registrar = made.modules["registrar"]
    assert registrar.reg_send_reply(ctx) == -1
    assert registrar.save(ctx, "location", 2) == 1
    assert replies(made) == []
    assert registrar.reg_send_reply(ctx) == 1
    (reply,) = replies(made)
    assert (status(reply), contact(reply)) == (200, "<sip:a@h>;expires=3600")


def test_headers_that_the_script_added_go_into_the_reply_once() -> None:
    made = server()
    ctx = request_context(message("REGISTER sip:example.test SIP/2.0", "Contact: <sip:a@h>"))
    ctx.reply_headers.append("X-Mine: 1")
    made.modules["registrar"].save(ctx, "location", 0)
    (reply,) = replies(made)
    assert headers(reply, "X-Mine") == ["1"]
    assert ctx.reply_headers == ["X-Mine: 1"]


@pytest.mark.pure
def test_save_replies_through_the_transaction_when_there_is_one() -> None:
    class Tm:
        name = "tm"
        sent: ClassVar[list[tuple[int, str, list[str]]]] = []

        def reply(self, ctx: RouteContext, code: int, reason: str) -> int:
            self.sent.append((code, reason, list(ctx.reply_headers)))
            return 1

    made = server()
    tm = Tm()
    made.modules["tm"] = tm  # type: ignore[index]
    register(made, "Contact: <sip:a@h>", setup=lambda ctx: setattr(ctx, "transaction", object()))
    assert tm.sent == [(200, "OK", ["Contact: <sip:a@h>;expires=3600"])]


def test_path_is_stored_and_returned_as_path_mode_says() -> None:
    path = "Path: <sip:edge;lr>"
    for mode, supported, answer in (
        (0, True, []),
        (1, True, ["<sip:edge;lr>"]),
        (1, False, []),
        (2, True, ["<sip:edge;lr>"]),
    ):
        made = server({"use_path": 1, "path_mode": mode})
        _, reply = register(made, "Contact: <sip:a@h>", path, *(["Supported: gruu, path"] if supported else []))
        assert headers(reply, "Path") == answer
        assert made.location.get("location", "alice")[0].path == "<sip:edge;lr>"
    made = server({"use_path": 1})
    result, reply = register(made, "Contact: <sip:a@h>", path)
    assert (result, status(reply), headers(reply, "Unsupported")) == (-1, 420, ["path"])
    made = server()
    register(made, "Contact: <sip:a@h>", path)
    assert made.location.get("location", "alice")[0].path == ""


def test_the_address_behind_an_edge_comes_from_its_path() -> None:
    made = server({"use_path": 1, "path_mode": 0, "path_use_received": 1})
    register(made, "Contact: <sip:a@10.0.0.1>", "Path: <sip:edge;lr;received=sip:198.51.100.7%3A1024>")
    assert made.location.get("location", "alice")[0].received == "sip:198.51.100.7:1024"


@pytest.mark.parametrize(
    "to, params, usrloc, aor",
    [
        ("<sip:Alice@Example.TEST>", {}, {}, "alice"),
        ("<sip:%41lice@example.test>", {}, {}, "alice"),
        ("sip:alice@example.test;tag=1", {}, {}, "alice"),
        ("<sip:alice:secret@example.test>", {}, {}, "alice"),
        ("<tel:+4930123>", {}, {}, "+4930123"),
        ("<sip:Alice@Example.TEST>", {"case_sensitive": 1}, {}, "Alice"),
        ("<sip:Alice@Example.TEST>", {}, {"use_domain": 1}, "alice@example.test"),
        ("<sip:alice@sip.example.test>", {"realm_prefix": "sip."}, {"use_domain": 1}, "alice@example.test"),
        ("<sip:J\xc3\x9cRGEN@example.test>", {}, {}, "j\xc3\x9crgen"),  # UTF-8 octets stay what they are
    ],
)
def test_the_aor_of_a_register(to: str, params: dict[str, Any], usrloc: dict[str, Any], aor: str) -> None:
    made = server(params, usrloc)
    assert register(made, "Contact: <sip:a@h>", to=to)[0] == 1
    assert [key for key, _ in made.location.items("location")] == [aor]


@pytest.mark.parametrize(
    "to", ["<sip:example.test>", "<sip:" + "a" * 300 + "@h>", "<urn:service:sos>", "<bogus>", "<sip:a@h", '"x']
)
def test_a_to_that_names_no_aor_gets_400(to: str) -> None:
    made = server()
    result, reply = register(made, "Contact: <sip:a@h>", to=to)
    assert result == -1
    assert (status(reply) if reply else 400) == 400  # no reply can be made of a To that does not parse
    assert list(made.location.items("location")) == []


def test_save_uri_registers_for_another_aor() -> None:
    made = server()
    ctx = request_context(message("REGISTER sip:example.test SIP/2.0", "Contact: <sip:a@h>"))
    assert made.modules["registrar"].save_uri(ctx, "location", 0, "sip:bob@example.test") == 1
    assert uris(made, "bob") == ["sip:a@h"]
    assert uris(made, "alice") == []


def test_a_table_that_is_not_there_is_an_error_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    made = server()
    registrar = made.modules["registrar"]
    ctx = request_context(message("REGISTER sip:example.test SIP/2.0", "Contact: <sip:a@h>"))
    assert [registrar.save(ctx, "locatoin", 0) for _ in range(3)] == [-1, -1, -1]
    assert registrar.lookup(invite(), "locatoin") == -1
    assert replies(made) == []
    assert len(caplog.records) == 1
    assert "'locatoin'" in caplog.text


def test_what_the_xavp_says_goes_before_the_parameters() -> None:
    made = server({"xavp_cfg": "reg", "max_contacts": 1})

    def setup(ctx: RouteContext) -> None:
        ctx.shared.xavps["reg"] = [{"max_contacts": 2, "expires": 600}]

    register(made, "Contact: <sip:a@h>", setup=setup)
    assert register(made, "Contact: <sip:b@h>", setup=setup, cseq=2)[0] == 1
    assert register(made, "Contact: <sip:c@h>", setup=setup, cseq=3)[0] == -2
    assert [b.expires for b in made.location.get("location", "alice")] == [NOW + 600] * 2
    assert register(made, "Contact: <sip:c@h>", cseq=4)[0] == -2


def test_set_q_override_gives_contacts_another_q() -> None:
    made = server()
    registrar = made.modules["registrar"]
    ctx = request_context(message("REGISTER sip:example.test SIP/2.0", "Contact: <sip:a@h>;q=0.1"))
    assert [registrar.set_q_override(ctx, q) for q in ("500", "x", "", "0.5")] == [-1, -1, -1, 1]
    registrar.save(ctx, "location", 0)
    assert made.location.get("location", "alice")[0].q == 500


@given(st.integers(0, 1000))
def test_q_values_are_read_as_they_are_written(q: int) -> None:
    assert parse_q(render_q(q), -1) == q


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60), st.integers(0, 31))
def test_no_contact_whatever_stops_the_registrar(text: str, flags: int) -> None:
    made = server({"use_path": 1})
    for line in (f"Contact: {text}", f"Contact: <sip:a@h>;{text}", f"Contact: <sip:{text}>", f"Expires: {text}"):
        ctx = request_context(message("REGISTER sip:example.test SIP/2.0", line))
        assert made.modules["registrar"].save(ctx, "location", flags) in (-2, -1, 1, 3, 4)
        try:
            made.modules["registrar"].lookup(invite(), "location")
        except PolykemiError:  # only of the errors of errors.py
            pass


# ---- lookup
def registered(params: dict[str, Any] | None = None, *lines: str, **more: Any) -> Services:
    made = server(params)
    assert register(made, *lines, **more)[0] == 1
    return made


def test_lookup_sends_the_request_to_the_contact() -> None:
    made = registered(
        None, "Contact: <sip:alice@10.0.0.1:5070;transport=udp>", setup=lambda ctx: setattr(ctx, "bflags", 8)
    )
    ctx = invite("sip:ALICE@example.test")
    ctx.dst_uri = "sip:elsewhere"
    assert made.modules["registrar"].lookup(ctx, "location") == 1
    assert (ctx.ruri, ctx.dst_uri, ctx.path, ctx.bflags) == ("sip:alice@10.0.0.1:5070;transport=udp", "", "", 8)
    assert ctx.force_listener == LISTENER
    assert ctx.ruid.startswith("uloc-")
    assert ctx.branches == []


def test_lookup_sends_to_the_source_of_the_registration_behind_nat() -> None:
    made = registered(None, "Contact: <sip:alice@10.0.0.1>", cache={"received": "sip:198.51.100.7:1024"})
    ctx = invite()
    made.modules["registrar"].lookup(ctx, "location")
    assert (ctx.ruri, ctx.dst_uri) == ("sip:alice@10.0.0.1", "sip:198.51.100.7:1024")


def test_lookup_goes_along_the_path() -> None:
    lines = ["Contact: <sip:alice@10.0.0.1>", "Path: <sip:edge.test;lr>, <sip:192.0.2.1;lr>"]
    made = registered({"use_path": 1, "path_mode": 0}, *lines, cache={"received": "sip:198.51.100.7:1024"})
    ctx = invite()
    made.modules["registrar"].lookup(ctx, "location")
    assert (ctx.dst_uri, ctx.path) == ("sip:edge.test;lr", "<sip:edge.test;lr>, <sip:192.0.2.1;lr>")


def test_lookup_skips_a_path_that_is_this_server_when_told_so() -> None:
    params = {"use_path": 1, "path_mode": 0, "path_check_local": 1}
    made = registered(params, "Contact: <sip:alice@10.0.0.1>", "Path: <sip:192.0.2.1;lr>, <sip:next.test;lr>")
    ctx = invite()
    made.modules["registrar"].lookup(ctx, "location")
    assert (ctx.dst_uri, ctx.path) == ("sip:next.test;lr", "<sip:next.test;lr>")


def test_lookup_appends_the_other_contacts_in_the_order_of_their_q() -> None:
    lines = ["Contact: <sip:a@h1>;q=0.1, <sip:b@h2>, <sip:c@h3>;q=1, <sip:d@h4>;q=0.1"]
    ctx = invite()
    made = registered(None, *lines)
    assert made.modules["registrar"].lookup(ctx, "location") == 1
    assert ctx.ruri == "sip:c@h3"
    assert [(b.uri, b.q) for b in ctx.branches] == [("sip:d@h4", 100), ("sip:a@h1", 100), ("sip:b@h2", -1)]
    ctx = invite()
    assert registered({"append_branches": 0}, *lines).modules["registrar"].lookup(ctx, "location") == 1
    assert (ctx.ruri, ctx.branches) == ("sip:c@h3", [])


def test_lookup_finds_nobody() -> None:
    made = registered(None, "Contact: <sip:a@h>;expires=100")
    lookup = made.modules["registrar"].lookup
    cases = [("sip:bob@example.test", NOW, -1), ("sip:example.test", NOW, -1), ("urn:service:sos", NOW, -1)]
    for uri, now, result in [*cases, ("sip:alice@example.test", NOW + 100, -1)]:
        ctx = invite(uri, now=now)
        assert lookup(ctx, "location") == result
        assert (ctx.ruri, ctx.dst_uri) == (uri, "")
    ctx = invite()
    ctx.ruri = "no uri"
    assert lookup(ctx, "location") == -3


def test_lookup_keeps_to_the_methods_that_a_phone_allows() -> None:
    made = registered({"method_filtering": 1}, "Contact: <sip:a@h>", "Allow: MESSAGE, OPTIONS")
    assert made.modules["registrar"].lookup(invite(), "location") == -2
    assert made.modules["registrar"].lookup(invite(to="<sip:alice@example.test>;tag=1"), "location") == 1
    made = registered({"method_filtering": 1}, "Contact: <sip:a@h>", "Allow: INVITE")
    assert made.modules["registrar"].lookup(invite(), "location") == 1


def test_lookup_of_another_uri_and_into_the_destination_set() -> None:
    made = registered(None, "Contact: <sip:a@h1>, <sip:b@h2>")
    registrar = made.modules["registrar"]
    ctx = invite("sip:bob@example.test")
    assert registrar.lookup_to_dset(ctx, "location", "sip:nobody@example.test") == -1
    assert registrar.lookup_to_dset(ctx, "location", "sip:alice@example.test") == 1
    assert (ctx.ruri, [b.uri for b in ctx.branches]) == ("sip:bob@example.test", ["sip:b@h2", "sip:a@h1"])
    ctx = invite("sip:bob@example.test")
    assert registrar.lookup_uri(ctx, "location", "sip:alice@example.test") == 1
    assert (ctx.ruri, [b.uri for b in ctx.branches]) == ("sip:b@h2", ["sip:a@h1"])


def test_lookup_branches_replaces_each_plain_branch_by_its_contacts() -> None:
    made = registered(None, "Contact: <sip:a@h1>")
    register(made, "Contact: <sip:b@h2>, <sip:b@h3>", to="<sip:bob@example.test>")
    ctx = invite()
    fixed = Target("sip:gw@h9", "sip:h9")
    ctx.branches = [Target("sip:bob@example.test"), fixed, Target("sip:nobody@example.test")]
    assert made.modules["registrar"].lookup_branches(ctx, "location") == 1
    assert (ctx.ruri, [b.uri for b in ctx.branches]) == ("sip:a@h1", ["sip:b@h3", "sip:b@h2", "sip:gw@h9"])


def test_registered_tells_whether_there_is_a_contact() -> None:
    made = registered({"xavp_cfg": "reg"}, "Contact: <sip:a@h>;expires=100")
    registrar = made.modules["registrar"]
    assert registrar.registered(invite(), "location") == 1
    assert registrar.registered(invite("sip:bob@example.test"), "location") == -1
    assert registrar.registered(invite(now=NOW + 100), "location") == -1
    assert registrar.registered_uri(invite("sip:x@y"), "location", "sip:alice@elsewhere") == 1
    ctx = invite()
    ctx.shared.xavps["reg"] = [{"match_callid": "call-1@192.0.2.10", "match_contact": "sip:other@h"}]
    assert registrar.registered_flags(ctx, "location", "sip:alice@h", 1) == 1
    assert registrar.registered_flags(ctx, "location", "sip:alice@h", 5) == -1
    with pytest.raises(SipError):
        registrar.registered_uri(ctx, "location", "bogus")


def test_unregister_removes_all_contacts_or_one() -> None:
    made = registered(None, "Contact: <sip:a@h1>, <sip:b@h2>")
    registrar = made.modules["registrar"]
    ruid = made.location.get("location", "alice")[0].ruid
    assert registrar.unregister_ruid(invite(), "location", "sip:alice@h", "none") == -3
    assert registrar.unregister_ruid(invite(), "location", "sip:alice@h", ruid) == 1
    assert uris(made) == ["sip:a@h1"]
    assert registrar.unregister(invite(), "location", "sip:alice@h") == 1
    assert uris(made) == []


def test_add_sock_hdr_tells_where_a_register_came_in() -> None:
    ctx = invite()
    assert server().modules["registrar"].add_sock_hdr(ctx, "Sock-Info") == 1
    assert ctx.edits.apply(ctx.message.lines)[-1] == "Sock-Info: udp:192.0.2.1:5060"


# ---- $ulc
def test_fetched_contacts_are_read_through_ulc() -> None:
    made = registered(None, "Contact: <sip:a@h1>;q=0.5;expires=100, <sip:b@h2>", "User-Agent: Phone", "Allow: INVITE")
    registrar, variables = made.modules["registrar"], made.variables
    ctx = invite()

    def value(name: str) -> Any:
        accessor = variables.compile(name)
        assert accessor is not None
        return accessor.get(ctx)

    assert value("$ulc(callee=>count)") is None
    assert registrar.reg_fetch_contacts(ctx, "location", "sip:nobody@h", "callee") == -1
    assert registrar.reg_fetch_contacts(ctx, "location", "sip:alice@h", "callee") == 1
    expected = {
        "aor": "alice",
        "domain": "location",
        "count": 2,
        "addr": "sip:a@h1",
        "q": 500,
        "expires": int(NOW) + 100,
    }
    expected |= {"user_agent": "Phone", "socket": "udp:192.0.2.1:5060", "methods": 1, "cseq": 1, "instance": None}
    assert {name: value(f"$ulc(callee=>{name})") for name in expected} == expected
    assert value("$(ulc(callee=>addr)[1])") == "sip:b@h2"
    assert value("$(ulc(callee=>addr)[2])") is None
    assert registrar.ulc_rget(ctx, "callee", "count") == 2
    assert registrar.ulc_rget(ctx, "callee", "addr") is None
    assert registrar.ulc_cget(ctx, "callee", "addr", 1) == "sip:b@h2"
    assert registrar.ulc_cget(ctx, "callee", "addr", -1) is None
    assert registrar.reg_free_contacts(ctx, "callee") == 1
    assert value("$ulc(callee=>count)") is None
    assert variables.compile("$ulc(callee=>nonsense)") is None


def test_profiles_do_not_pile_up() -> None:
    made = registered(None, "Contact: <sip:a@h1>")
    registrar, ctx = made.modules["registrar"], invite()
    for n in range(100):
        registrar.reg_fetch_contacts(ctx, "location", "sip:alice@h", f"p{n}")
    assert registrar.ulc_rget(ctx, "p0", "count") is None
    assert registrar.ulc_rget(ctx, "p99", "count") == 1


# ---- the whole
def test_a_contact_that_was_answered_200_is_there_after_a_restart(tmp_path: Path) -> None:
    for n in (1, 2):
        store = LmdbLocation(tmp_path / "location")
        made = server(location=store)
        result, reply = register(made, "Contact: <sip:alice@192.0.2.10>", cseq=n)
        assert (result, status(reply)) == (n, 200)  # inserted, then updated
        store.close()


def test_the_200_is_a_reply_of_rfc_3261() -> None:
    _, reply = register(server(), "Contact: <sip:a@h>")
    head = reply.split("\r\n")
    assert head[0] == "SIP/2.0 200 OK"
    assert re.fullmatch(r"<sip:alice@example.test>;tag=\S+", headers(reply, "To")[0])
    assert headers(reply, "Call-Id") == ["call-1@192.0.2.10"]
    assert headers(reply, "CSeq") == ["1 REGISTER"] or headers(reply, "Cseq") == ["1 REGISTER"]
