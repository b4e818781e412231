"""uac: registrations with other servers over time, their commands, and requests of ours that nobody answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from polykemi.errors import DataError, ParseError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.rr import Rr
from polykemi.modules.sl import Sl
from polykemi.modules.tm import Tm
from polykemi.modules.uac import Uac, UacParams
from polykemi.modules.uac_auth import Credential, authorization, challenge_of
from polykemi.modules.uac_replace import Side, address_of, rewritten
from polykemi.sip.digest import check, ha1, parse_credentials
from polykemi.sip.flow import Flow
from polykemi.sip.message import Edits, Response, parse
from polykemi.storage.provisioned import Database
from polykemi.transaction.forking import Transaction
from tests.modules.tm_driver import Sent, answer, answer_of, whats
from tests.support import LISTENER, NOW, NoRoutes, message, request_context, services

CARRIER = ("192.0.2.20", 5060)
_ROW = "('{uuid}', '{user}', 'example.test', '49{user}', 'carrier.example', '{realm}', 'auth', 'secret', 'sip:192.0.2.20', {expires}, {flags})"


def row(uuid: str = "u1", user: str = "alice", realm: str = "", expires: int = 300, flags: int = 0) -> str:
    """Return the values of a row."""
    return _ROW.format(uuid=uuid, user=user, realm=realm, expires=expires, flags=flags)


class Client:
    """A server with registrations; its carrier answers by hand."""

    def __init__(self, *rows: str, **params: Any) -> None:
        self.database = Database()
        for values in rows:
            columns = (
                "l_uuid, l_username, l_domain, r_username, r_domain, realm, auth_username, auth_password, auth_proxy"
            )
            self.database.query(f"INSERT INTO uacreg ({columns}, expires, flags) VALUES {values}")
        given = {"reg_db_url": "sqlite:///", "reg_contact_addr": "192.0.2.1:5060", **params}
        self.services = services(
            Sl, Tm, Rr, Uac, params={"uac": given}, database=self.database, routes=NoRoutes("told")
        )
        self.uac: Uac = self.services.modules["uac"]
        self.tm: Tm = self.services.modules["tm"]
        self.now = NOW
        self.blocks: list[RouteContext] = []

    def wait(self, seconds: float) -> list[Sent]:
        """Let time pass, timer by timer; return what left."""
        end = self.now + seconds
        while True:
            due = min(t for m in (self.uac, self.tm) if (t := m.next_timeout()) is not None)
            if due > end:
                break
            self.now = max(self.now, due)
            self.uac.handle_timer(self.now)
            process = self.tm.handle_timer(self.now)
            self.blocks += [] if process is None else list(process)
        self.now = end
        return self.sent()

    def receive(self, text: str) -> list[Sent]:
        """Take a response of the carrier; return what left."""
        response = answer_of(text)
        assert isinstance(response, Response)
        client = self.tm.client_of(response)
        assert client is not None
        flow = Flow(LISTENER, *CARRIER)
        ctx = RouteContext(Route.REPLY, "ksr_reply_route", response, flow, self.now)
        self.blocks += list(self.tm.handle_response(client, response, ctx, self.now))
        return self.sent()

    def sent(self) -> list[Sent]:
        """Return what left, and forget it."""
        items, self.services.outbox.items = self.services.outbox.items, []
        return [Sent(data, flow) for data, flow in items]

    def register(self, expires: int = 120) -> Sent:
        """Let the first registration go through; return its REGISTER."""
        (register,) = self.wait(0)
        self.receive(answer(register, 200, f"Contact: <sip:u1@192.0.2.1:5060>;expires={expires}"))
        return register

    @property
    def one(self) -> Any:
        """The registration u1."""
        assert self.uac.registrations is not None
        return self.uac.registrations.by_uuid["u1"]

    def status(self) -> int:
        """Return what uac_reg_status answers for u1."""
        ctx = request_context(message("OPTIONS sip:example.test SIP/2.0"), now=self.now)
        return self.uac.uac_reg_status(ctx, "u1")


CHALLENGE = 'WWW-Authenticate: Digest realm="carrier", nonce="42", qop="auth", algorithm={}'


def test_registrations_are_sent_at_once_and_refreshed_before_they_end() -> None:
    client = Client(row())
    client.register(120)
    assert client.status() == 1
    assert client.services.counters["uac.regactive"] == 1
    assert client.wait(60) == []
    (again,) = client.wait(30)
    assert client.now - NOW == 90
    assert client.services.counters["uac.regactive"] == 0
    client.receive(answer(again, 200, "Contact: <sip:u1@192.0.2.1:5060>", "Expires: 600"))
    assert client.status() == 1
    assert client.one.timer_expires == NOW + 690
    assert client.wait(480) == []


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_a_challenge_is_answered_once(algorithm: str) -> None:
    client = Client(row(realm="carrier"))
    (register,) = client.wait(0)
    (second,) = client.receive(answer(register, 401, CHALLENGE.format(algorithm)))
    value = second.message.get("authorization")
    assert value is not None
    credentials = parse_credentials(value)
    assert check(credentials, ha1("auth", "carrier", "secret", algorithm), "REGISTER")
    assert credentials.uri == "sip:carrier.example"
    assert second.message.call_id == register.message.call_id
    assert second.message.from_.tag == register.message.from_.tag
    assert client.status() == -2
    assert client.receive(answer(second, 401, CHALLENGE.format(algorithm))) == []
    assert client.status() == -3
    assert client.services.counters["uac.regdisabled"] == 1


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (401, 'WWW-Authenticate: Digest realm="other", nonce="42"'),
        (401, 'WWW-Authenticate: Digest realm="carrier", nonce="42", algorithm=SHA-512-256'),
        (401, "WWW-Authenticate: Basic"),
        (407, 'WWW-Authenticate: Digest realm="carrier", nonce="42"'),
        (403, "X: y"),
        (200, "X: no contact"),
    ],
)
def test_what_fails_is_disabled_or_tried_again_later(status: int, line: str) -> None:
    client = Client(row(realm="carrier"))
    client.receive(answer(client.wait(0)[0], status, line))
    assert client.status() == -3
    assert client.wait(300) == []
    client = Client(row(realm="carrier"), reg_retry_interval=100, reg_timer_interval=10)
    client.receive(answer(client.wait(0)[0], status, line))
    assert client.status() == -99
    assert client.wait(80) == []
    assert whats(client.wait(10)) == ["REGISTER"]


def test_a_registrar_that_does_not_answer_is_a_failure() -> None:
    client = Client(row())
    client.wait(0)
    client.wait(60)
    assert client.status() == -3


def test_an_interval_too_brief_is_made_longer() -> None:
    client = Client(row(), reg_timer_interval=10)
    (register,) = client.wait(0)
    client.receive(answer(register, 423, "Min-Expires: 900"))
    assert client.one.expires == 900
    (again,) = client.wait(10)
    assert again.message.get("expires") == "900"
    client.receive(answer(again, 423))
    assert client.one.expires == 1800


def test_the_call_id_may_be_kept() -> None:
    client = Client(row(), reg_keep_callid=1)
    first = client.register(90)
    (second,) = client.wait(90)
    assert second.message.call_id == first.message.call_id
    assert second.message.cseq == (11, "REGISTER")


def test_a_delay_is_kept_and_inactive_means_that_nothing_is_sent() -> None:
    client = Client(row())
    client.one.reg_delay = 100
    assert client.wait(90) == []
    assert whats(client.wait(90)) == ["REGISTER"]
    client = Client(row(), reg_active=0)
    assert client.wait(200) == []
    assert client.uac.reg_active(1) == {"omode": 0, "nmode": 1}
    assert whats(client.wait(70)) == ["REGISTER"]


def test_rows_that_cannot_be_used_are_left_out() -> None:
    client = Client(
        row(), row("u2", "").replace("'49'", "''"), row("u3").replace("'secret'", "''"), row("u4", expires=0)
    )
    assert client.uac.registrations is not None
    assert set(client.uac.registrations.by_uuid) == {"u1", "u4"}
    assert whats(client.wait(0)) == ["REGISTER"]


def test_commands_show_change_and_forget() -> None:
    client = Client(row(), row("u2", "bob", flags=1))
    client.register()
    uac = client.uac
    (first, second) = uac.reg_dump()
    assert (first["l_uuid"], first["auth_ha1"], first["flags"] & 4) == ("u1", "none", 4)
    assert uac.reg_info("l_username", "bob") == second
    uac.reg_disable("l_uuid", "u1")
    assert client.one.flags & 1
    uac.reg_enable("l_uuid", "u1")
    assert not client.one.flags & 1
    uac.reg_remove("u1")
    assert [one["l_uuid"] for one in uac.reg_dump()] == ["u2"]
    uac.reg_refresh("u1")
    assert client.services.counters["uac.regtotal"] == 2
    client.database.query("DELETE FROM uacreg WHERE l_uuid = 'u2'")
    uac.reg_reload()
    assert [one["l_uuid"] for one in uac.reg_dump()] == ["u1"]
    who = ("u9", "carol", "example.test", "4903", "carrier.example", "", "auth")
    uac.reg_add(*who, "secret", ".", "sip:192.0.2.20", 60, 0, 0)
    assert uac.reg_info("r_username", "4903")["contact_addr"] == "192.0.2.1:5060"
    uac.reg_unregister("l_uuid", "u9")
    (register,) = client.sent()
    assert register.message.get("expires") == "0"
    for wrong, code in (
        (lambda: uac.reg_add(*who, "secret", ".", "sip:192.0.2.20", 60, 0, 0), 409),
        (lambda: uac.reg_add("u10", *who[1:], ".", "5", "sip:192.0.2.20", 60, 0, 0), 500),
        (lambda: uac.reg_info("l_domain", "x"), 400),
        (lambda: uac.reg_info("l_uuid", ""), 400),
        (lambda: uac.reg_remove("nobody"), 404),
        (lambda: uac.reg_refresh("nobody"), 404),
    ):
        with pytest.raises(RpcError) as error:
            wrong()
        assert error.value.code == code


def test_without_a_table_there_is_no_timer_and_no_command() -> None:
    client = Client(reg_db_url="")
    assert client.uac.next_timeout() is None
    with pytest.raises(RpcError):
        client.uac.reg_dump()


@pytest.mark.parametrize(
    "wrong",
    [
        {"restore_mode": "sometimes"},
        {"auth_realm_avp": "$avp(a)"},
        {"reg_db_url": "sqlite:///x"},
        {"credential": ("alice",)},
        {"restore_from_avp": "$var(x)"},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        UacParams(**wrong)


def test_what_the_server_does_not_have_is_told_at_the_start() -> None:
    with pytest.raises(DataError):
        Client(default_socket="udp:192.0.2.99:5060")


# ---- requests of scripts
def told(client: Client, **fields: Any) -> list[Sent]:
    """Send a request by $uac_req and return what left."""
    ctx = request_context(message("OPTIONS sip:example.test SIP/2.0"), now=client.now)
    for name, value in {"method": "OPTIONS", "ruri": "sip:bob@192.0.2.20", **fields}.items():
        accessor = client.services.variables.compile(f"$uac_req({name})")
        assert accessor is not None
        assert accessor.set is not None
        assert accessor.set(ctx, value)
    assert list(client.uac.uac_req_send(ctx)) == []
    return client.sent()


def field(client: Client, name: str) -> Any:
    """Return a field of $uac_req."""
    accessor = client.services.variables.compile(f"$uac_req({name})")
    assert accessor is not None
    return accessor.get(client.blocks[-1])


def test_a_request_without_an_answer_tells_the_script_so() -> None:
    client = Client(event_callback="told")
    told(client, evroute=1)
    client.wait(40)
    assert [block.event for block in client.blocks] == ["uac:reply"]
    assert (field(client, "evcode"), field(client, "evtype")) == (408, 2)


def test_only_failures_are_told_when_that_is_wanted() -> None:
    client = Client(event_callback="told")
    (sent,) = told(client, evroute=2)
    client.receive(answer(sent, 200))
    assert client.blocks == []
    (sent,) = told(client, evroute=2)
    client.receive(answer(sent, 503))
    assert field(client, "evcode") == 503


def test_credentials_are_sent_once_also_as_a_hash() -> None:
    client = Client(event_callback="told")
    (sent,) = told(client, auser="bob", apasswd=ha1("bob", "carrier", "secret"), flags=1, hdrs="X-A: 1\r\n")
    (second,) = client.receive(answer(sent, 407, CHALLENGE.format("MD5").replace("WWW", "Proxy")))
    credentials = parse_credentials(second.message.get("proxy-authorization") or "")
    assert check(credentials, ha1("bob", "carrier", "secret"), "OPTIONS")
    assert second.message.get("x-a") == "1"
    assert client.receive(answer(second, 407, CHALLENGE.format("MD5").replace("WWW", "Proxy"))) == []
    assert client.blocks == []


# ---- From and To
@pytest.mark.parametrize(
    ("value", "display", "uri", "expected"),
    [
        ('"A" <sip:a@b>;tag=1', None, "sip:c@d", '"A" <sip:c@d>;tag=1'),
        ('"A <x>" <sip:a@b>', '"C"', "", '"C" <sip:a@b>'),
        ('"A \\" <" <sip:a@b>', "", "", " <sip:a@b>"),
        ("<sip:a@b;x=y>;tag=1", '"C"', "sip:c@d", '"C" <sip:c@d>;tag=1'),
        ("sip:a@b;tag=1", None, "sip:c@d", "sip:c@d;tag=1"),
        ("sip:a@b;tag=1", "", "", "sip:a@b;tag=1"),
        ("sip:a@b", '"C"', "", '"C" <sip:a@b>'),
        ("A B <sip:a@b>", "C", "sip:c@d", "C <sip:c@d>"),
    ],
)
def test_names_and_addresses_are_rewritten_in_place(value: str, display: str | None, uri: str, expected: str) -> None:
    assert rewritten(value, display, uri) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [('"A <x>" <sip:a@b;x=y> ;tag=1', '"A <x>" <sip:a@b;x=y>'), ("sip:a@b;tag=1", "sip:a@b"), ("sip:a@b", "sip:a@b")],
)
def test_the_address_is_what_stands_before_the_parameters(value: str, expected: str) -> None:
    assert address_of(value) == expected


def test_the_value_may_be_kept_in_an_avp() -> None:
    client = Client(restore_from_avp="$avp(original)")
    ctx = request_context(message("INVITE sip:bob@192.0.2.20 SIP/2.0"))
    assert client.uac.uac_replace_from_uri(ctx, "sip:sales@example.org") == 1
    assert ctx.shared.avps["original"] == ["<sip:alice@example.test>"]


def test_without_the_callers_tag_in_the_route_nothing_is_replaced() -> None:
    made = services(Sl, Tm, Rr, Uac, params={"rr": {"append_fromtag": 0}})
    ctx = request_context(message("INVITE sip:bob@192.0.2.20 SIP/2.0"))
    assert made.modules["uac"].uac_replace_from_uri(ctx, "sip:sales@example.org") == -1
    assert not ctx.edits


def test_a_reply_with_another_from_that_cannot_be_read_stays_as_it_is() -> None:
    ctx = request_context(message("INVITE sip:bob@example.test SIP/2.0"))
    transaction = cast(Transaction, SimpleNamespace(shared=ctx.shared, request=ctx.request))
    reply, edits = parse(message("SIP/2.0 200 OK", from_="a, <<b", cseq="1 INVITE")), Edits()
    assert isinstance(reply, Response)
    Side("from", "vsf", "").received(transaction, reply, edits, NOW)
    assert not edits


def test_line_ends_do_not_get_into_a_header() -> None:
    client = Client()
    ctx = request_context(message("INVITE sip:bob@192.0.2.20 SIP/2.0"))
    assert client.uac.uac_replace_from(ctx, '"A"\r\nX: y', "sip:sales@example.org") == -1
    assert client.uac.uac_replace_from(ctx, "", "sip:sales@example.org\r\nX: y") == -1
    assert not ctx.edits


# ---- challenges
def test_a_challenge_is_read_with_its_quotes() -> None:
    reply = parse(
        message(
            "SIP/2.0 401 Unauthorized",
            'WWW-Authenticate: Digest realm="a, b=c", nonce="1==", opaque="x\\"y", QOP="auth-int,auth"',
        )
    )
    assert isinstance(reply, Response)
    challenge = challenge_of(reply)
    assert (challenge.realm, challenge.nonce, challenge.opaque, challenge.wants_qop) == ("a, b=c", "1==", 'x\\"y', True)
    line = authorization(challenge, Credential("", "bob", "secret"), "INVITE", "sip:b@c", "mine")
    assert check(parse_credentials(line.partition(": ")[2]), ha1("bob", "a, b=c", "secret"), "INVITE")


def test_a_challenge_needs_a_realm() -> None:
    reply = parse(message("SIP/2.0 401 Unauthorized", 'WWW-Authenticate: Digest realm="", nonce="1"'))
    assert isinstance(reply, Response)
    with pytest.raises(ParseError):
        challenge_of(reply)
