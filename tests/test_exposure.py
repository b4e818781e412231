"""What the server gives away: nothing about which users there are, nothing to those who did not ask, no secret to the log."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any, Final

import pytest

from polykemi.config import load
from polykemi.errors import ConfigError
from polykemi.sip import digest
from polykemi.sip.flow import Listener
from polykemi.storage.provisioned import Database
from polykemi.testing import Sent, ServerUnderTest
from tests.support import message

ROUTES: Final = Path(__file__).parent.parent / "routes"
SAMPLES: Final = {"lua": "lua/basic.lua", "js": "js/basic.js", "python": "py/basic.py"}
PEER: Final = "192.0.2.10:5060"
PASSWORD: Final = "w0nderland-Secret"


def sample(engine: str, **modules: dict[str, Any]) -> ServerUnderTest:
    """Return a server with the sample script and one subscriber."""
    database = Database()
    database.add_subscriber("alice", "example.test", PASSWORD)
    script = ROUTES / SAMPLES[engine]
    return ServerUnderTest({engine: script}, domains=["example.test"], database=database, modules=modules)


class Phone:
    """Sends requests; each is a new transaction."""

    def __init__(self, server: ServerUnderTest) -> None:
        self._server, self._n = server, 0

    def send(self, method: str, user: str, *lines: str, domain: str = "example.test") -> list[Sent]:
        """Send a request of ``user``."""
        self._n += 1
        uri = f"sip:{domain}" if method == "REGISTER" else f"sip:{user}@{domain}"
        data = message(
            f"{method} {uri} SIP/2.0",
            *("Max-Forwards: 70", f"Contact: <sip:{user}@192.0.2.10>", *lines),
            via=f"SIP/2.0/UDP {PEER};branch=z9hG4bK{self._n}",
            from_=f"<sip:{user}@{domain}>;tag=1",
            to=f"<sip:{user}@{domain}>",
            call_id="c",
            cseq=f"{self._n} {method}",
        )
        return self._server.receive(data, PEER)

    def authorized(self, method: str, user: str, password: str) -> Sent:
        """Send a request, and again with credentials; return the last reply."""
        (challenge,) = self.send(method, user)
        header = "Authorization" if challenge.start_line.startswith("SIP/2.0 401") else "Proxy-Authorization"
        realm, nonce = (re.findall(rf'{name}="([^"]*)"', challenge.data.decode())[0] for name in ("realm", "nonce"))
        ha1 = digest.ha1(user, realm, password)
        answer = digest.response(ha1, nonce, method, "sip:example.test")
        line = f'{header}: Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="sip:example.test", response="{answer}"'
        return self.send(method, user, line)[-1]


# ---- which users there are
def without_chance(data: bytes) -> str:
    """Return a reply without what differs between any two: nonce, tags, names of users, numbers."""
    text = re.sub(r'nonce="[^"]*"|tag=[0-9a-f.]+|branch=\w+|CSeq: \d+', "", data.decode(), flags=re.IGNORECASE)
    return re.sub(r"sip:\w+@", "sip:@", text)


@pytest.mark.parametrize("engine", SAMPLES)
@pytest.mark.parametrize("method", ["REGISTER", "INVITE", "SUBSCRIBE"])
def test_an_unknown_user_is_answered_as_a_wrong_password(engine: str, method: str) -> None:
    with sample(engine) as server:
        phone = Phone(server)
        answers = {
            without_chance(phone.authorized(method, user, password).data)
            for user, password in (("alice", "wrong"), ("nobody", "wrong"), ("nobody", PASSWORD), ("alice", ""))
        }
        first = {without_chance(phone.send(method, user)[-1].data) for user in ("alice", "nobody")}
    (answer,) = answers
    assert answer.startswith(("SIP/2.0 401 ", "SIP/2.0 407 "))
    assert first == {answer}  # and both as somebody who has not tried


@pytest.mark.pure
def test_an_unknown_user_costs_what_a_wrong_password_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is counted, not timed: look-ups in the database, and hashes."""
    work: list[str] = []
    with sample("lua") as server:
        database, real, hashed = server.database, server.database.credentials, digest._hash

        def credentials(*arguments: Any, **more: Any) -> str | None:
            work.append("look-up")
            return real(*arguments, **more)

        def counted(algorithm: str, text: str) -> str:
            work.append("hash")
            return hashed(algorithm, text)

        monkeypatch.setattr(database, "credentials", credentials)
        monkeypatch.setattr(digest, "_hash", counted)
        phone, done = Phone(server), {}
        for user in ("alice", "nobody"):
            phone.send("REGISTER", user)
            challenge = phone.send("REGISTER", user)[-1].data.decode()
            nonce = re.findall(r'nonce="([^"]*)"', challenge)[0]
            credentials_line = (
                f'Authorization: Digest username="{user}", realm="example.test", nonce="{nonce}", uri="sip:example.test", '
                f'response="{"0" * 32}"'
            )
            digest._ha2.cache_clear()
            work.clear()
            phone.send("REGISTER", user, credentials_line)
            done[user] = list(work)
    assert done["alice"] == done["nobody"]
    assert done["alice"].count("look-up") == 1
    assert done["alice"].count("hash") >= 2


# ---- reflection
UDP: Final = Listener("udp", "192.0.2.1", 5060)


@pytest.fixture(params=SAMPLES)
def server(request: pytest.FixtureRequest) -> Iterator[ServerUnderTest]:
    """A server with a sample script."""
    with sample(request.param) as one:
        yield one


SMALL: Final = (
    b"OPTIONS sip:example.test SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bK1;rport\r\nFrom: <sip:a@b>;tag=1\r\n"
    b"To: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n"
)


@pytest.mark.parametrize(
    "data",
    [
        SMALL,
        SMALL.replace(b"OPTIONS", b"REGISTER"),
        SMALL.replace(b"OPTIONS", b"INVITE").replace(b"sip:example", b"sip:bob@example"),
        SMALL.replace(b"OPTIONS", b"X"),
        SMALL.replace(b"Call-ID: 1\r\n", b""),
        SMALL.replace(b" SIP/2.0\r\n", b" SIP/9.0\r\n"),
        b"X sip:h SIP/2.0\r\nv: SIP/2.0/UDP h\r\n\r\n",
    ],
    ids=["OPTIONS", "REGISTER", "INVITE", "X", "no-call-id", "version", "least"],
)
def test_a_spoofed_source_gets_no_more_than_the_replies_of_the_rfc(server: ServerUnderTest, data: bytes) -> None:
    """A datagram makes one final reply (and 100), a few lines longer than itself; it goes to its source, and ends by itself."""
    sent = server.receive(data, "203.0.113.9:5060")
    assert {one.flow.host for one in sent} <= {"203.0.113.9"}
    finals = [one for one in sent if not one.start_line.startswith("SIP/2.0 100")]
    assert len(finals) <= 1
    for one in finals:
        assert len(one.data) <= len(data) + 330  # a challenge is the longest
    # unanswered, an INVITE's final reply comes again until Timer H (RFC 3261 section 17.2.1), all others never
    again = server.advance(120)
    assert len(again) <= (11 if data.startswith(b"INVITE") else 0)


@pytest.mark.parametrize("port", [0, 7, 19, 53, 5060])
def test_what_comes_back_of_our_own_replies_ends_there(server: ServerUnderTest, port: int) -> None:
    """No loop with a server that sends back what it is sent, us included."""
    pending = [
        SMALL,
        SMALL.replace(b"CSeq: 1", b"CSeq: x"),
        b"OPTIONS sip:h\r\n\r\n",
        b"\r\n\r\n",
        b"\0" * 4,
        b"x" * 1300,
    ]
    for source in (f"192.0.2.1:{port}", f"203.0.113.9:{port}"):
        sent = [one for data in pending for one in server.receive(data, source)]
        for one in sent:
            assert server.receive(one.data, source) == []  # a reply is never replied to


REPLY: Final = SMALL.replace(b"OPTIONS sip:example.test SIP/2.0", b"SIP/2.0 200 OK")


@pytest.mark.parametrize(
    "data",
    [
        REPLY,
        REPLY.replace(b"CSeq: 1 OPTIONS", b"CSeq: x"),
        REPLY.replace(b"Via:", b"X:"),
        REPLY.replace(b"SIP/2.0 200", b"SIP/2.0 999"),
        REPLY.replace(b"203.0.113.9", b"192.0.2.1"),  # ours, and no other Via
        SMALL.replace(b"OPTIONS", b"ACK"),
        SMALL.replace(b"OPTIONS", b"ACK").replace(b"To: <sip:a@b>", b"To: <sip:a@b>;tag=x"),
        SMALL.replace(b"OPTIONS sip", b"ACK sip"),  # CSeq says another method
        SMALL.replace(b"OPTIONS sip", b"ACK \xff"),
    ],
    ids=range(9),
)
def test_responses_and_stray_acks_are_never_answered(server: ServerUnderTest, data: bytes) -> None:
    assert server.receive(data, "203.0.113.9:5060") == []
    assert server.advance(60) == []


# ---- secrets
class Kept(logging.Handler):
    """Keeps all that is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(self.format(record))


@pytest.fixture
def log() -> Iterator[Kept]:
    """All of the log, debug level."""
    root, kept = logging.getLogger(), Kept()
    before = root.level
    root.addHandler(kept)
    root.setLevel(logging.DEBUG)
    logging.getLogger("polykemi").setLevel(logging.DEBUG)
    yield kept
    logging.getLogger("polykemi").setLevel(logging.NOTSET)
    root.setLevel(before)
    root.removeHandler(kept)


NONCE_KEY: Final = "n0nce-Key-Secret"
UAC: Final = "uac-Password-Secret"
XKEY: Final = "xkey-Value-Secret"
CALLS: Final = """
function ksr_request_route()
    KSR.auth_db.auth_check("example.test", "subscriber", 0)
    KSR.auth.pv_auth_check("example.test", "%s", 0, 0)
    KSR.auth.pv_www_authenticate("example.test", "%s", 0)
    KSR.auth_xkeys.auth_xkeys_add("X-Key", "one", "sha256", "data")
    KSR.auth_xkeys.auth_xkeys_check("X-Key", "one", "md5", "data")
    KSR.auth_ephemeral.autheph_check("example.test")
    KSR.tm.t_on_failure("failed")
    KSR.pv.sets("$du", "sip:192.0.2.20")
    KSR.tm.t_relay()
end
function failed()
    KSR.pv.sets("$avp(auser)", "alice")
    KSR.pv.sets("$avp(apass)", "%s")
    KSR.pv.sets("$avp(arealm)", "example.test")
    KSR.uac.uac_auth()
    KSR.tm.t_relay()
end
"""


def test_no_secret_is_in_the_log_at_any_level(tmp_path: Path, log: Kept) -> None:
    script = tmp_path / "script.lua"
    script.write_text(CALLS % (PASSWORD, PASSWORD, UAC))
    database = Database()
    database.add_subscriber("alice", "example.test", PASSWORD)
    modules: dict[str, Any] = {
        "auth": {"secret": NONCE_KEY},
        "auth_xkeys": {"xkey": [f"id=one;name=k;value={XKEY};expires=0"]},
        "auth_ephemeral": {"secret": [NONCE_KEY]},
        "uac": {
            "auth_username_avp": "$avp(auser)",
            "auth_password_avp": "$avp(apass)",
            "auth_realm_avp": "$avp(arealm)",
        },
    }
    with ServerUnderTest({"lua": script}, domains=["example.test"], database=database, modules=modules) as server:
        phone = Phone(server)
        nonce = server.node.modules["auth"].nonces.make("example.test", server.now)  # type: ignore[attr-defined]
        for password in (PASSWORD, "wrong"):
            answer = digest.response(
                digest.ha1("alice", "example.test", password), nonce, "REGISTER", "sip:example.test"
            )
            line = f'Digest username="alice", realm="example.test", nonce="{nonce}", uri="sip:example.test", response="{answer}"'
            sent = phone.send("REGISTER", "alice", f"Authorization: {line}", f"Proxy-Authorization: {line}")
            sent += phone.send(
                "REGISTER", "alice", f"Authorization: {line}", 'Proxy-Authorization: Digest username="\\'
            )
            for one in [one for one in sent if one.start_line.startswith("REGISTER")]:
                head = one.data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
                kept = [x for x in head if x.partition(b":")[0] in (b"Via", b"From", b"To", b"Call-Id", b"Cseq")]
                challenge = b'WWW-Authenticate: Digest realm="example.test", nonce="x"'
                server.receive(b"\r\n".join([b"SIP/2.0 401 No", *kept, challenge, b"\r\n"]), "192.0.2.20:5060")
        server.advance(60)
        assert any(call.path == "KSR.uac.uac_auth" and call.result == 1 for call in server.calls)
    text = "\n".join(log.lines)
    ha1 = md5(f"alice:example.test:{PASSWORD}".encode()).hexdigest()
    for secret in (PASSWORD, NONCE_KEY, UAC, XKEY, ha1, "response="):
        assert secret not in text, next(line for line in log.lines if secret in line)


@pytest.mark.parametrize(
    "table",
    [
        '[modules.sqlops]\nsqlcon = ["db=>mysql://user:{secret}@host/db"]',
        '[modules.sqlops]\nsqlcon = ["mysql://user:{secret}@host/db"]',
        '[modules.auth_xkeys]\nxkey = ["id=one;value={secret};expires=0"]',
        '[modules.auth]\nsecret = ["{secret}"]',
        '[modules.auth_ephemeral]\nsecret = {{ a = "{secret}" }}',
    ],
)
def test_a_wrong_configuration_is_told_without_its_secrets(tmp_path: Path, table: str) -> None:
    script = tmp_path / "script.lua"
    script.write_text("function ksr_request_route() end")
    file = tmp_path / "polykemi.toml"
    file.write_text(f'[engines.lua]\nscript = "{script}"\n' + table.format(secret=PASSWORD))
    with pytest.raises(ConfigError) as told:
        load(file)
    assert PASSWORD not in str(told.value)
    assert "[modules." in str(told.value)
