"""Two pages with JsSIP in Chromium register over WebSocket and call each other through each engine's sample script.

What the WebRTC offer and answer say goes through as it is, and then media packets flow.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.e2e.chromium import Chromium, Page, web_site
from tests.e2e.conftest import DOMAIN, PASSWORDS, SCRIPTS, HasPort, ServerProcess, make_data, tls_tables
from tests.e2e.kamailio_peer import registrar

CONFIG = """
[modules.xhttp]
event_callback = "ksr_xhttp_event"
"""


@pytest.fixture(scope="module", params=[*SCRIPTS, "kamailio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HasPort]:
    """A server that takes HTTP, for each engine; and Kamailio with the sample script, which has to do the same."""
    data = make_data(tmp_path_factory.mktemp(f"browsers-{request.param}"))
    if request.param == "kamailio":
        kamailio = registrar(data, request.getfixturevalue("pki"))
        yield kamailio
        kamailio.stop()
        return
    (data / "polykemi.toml").write_text(CONFIG + tls_tables(request.getfixturevalue("pki")))
    arguments = ["--config", str(data / "polykemi.toml"), "--engine", request.param, SCRIPTS[request.param]]
    process = ServerProcess(data, arguments, tls=True)
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.log()
    assert "script error" not in process.log()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The URL of the phone's page."""
    with web_site() as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One Chromium for all tests: starting it takes longest."""
    with closing(Chromium(tmp_path_factory.mktemp("chromium"))) as one:
        yield one


@pytest.fixture
def pages(browser: Chromium, site: str) -> Iterator[tuple[Page, Page]]:
    """Alice's and Bob's pages."""
    with closing(Page(browser, site)) as alice, closing(Page(browser, site)) as bob:
        yield alice, bob
        for page in (alice, bob):
            page.run("phone.ua && phone.ua.isRegistered() && (phone.ua.unregister(), phone.until('unregistered'))")


def start(page: Page, server: HasPort, user: str, password: str, scheme: str = "ws") -> None:
    """Start the phone of a page."""
    port = server.port if scheme == "ws" else server.tls_port
    page.run(f"phone.start('{scheme}://127.0.0.1:{port}', '{user}', '{DOMAIN}', '{password}')")


def register(page: Page, server: HasPort, user: str, scheme: str = "ws") -> None:
    """Start the phone of a page and wait until it has registered, with digest credentials."""
    start(page, server, user, PASSWORDS[user], scheme)
    page.until("registered")


def sdp(page: Page, originator: str, kind: str) -> str:
    """Return what the page has seen of an offer or answer."""
    [found] = page.run(f"phone.descriptions.filter((d) => d.originator == '{originator}' && d.type == '{kind}')")
    return str(found["sdp"])


def establish(caller: Page, callee: Page, user: str) -> None:
    """Make a call, and wait until both say that it stands."""
    callee.run("phone.answers = true, 0")
    caller.run(f"phone.call('sip:{user}@{DOMAIN}')")
    for page in (caller, callee):
        page.until("confirmed")


@pytest.mark.parametrize("schemes", [("ws", "ws"), ("wss", "wss"), ("wss", "ws"), ("ws", "wss")], ids="-".join)
def test_a_call_between_two_pages(server: HasPort, pages: tuple[Page, Page], schemes: tuple[str, str]) -> None:
    alice, bob = pages
    register(alice, server, "alice", schemes[0])
    register(bob, server, "bob", schemes[1])
    establish(alice, bob, "bob")
    for sender, receiver, kind in ((alice, bob, "offer"), (bob, alice, "answer")):
        assert sdp(receiver, "remote", kind) == sdp(sender, "local", kind)
        assert "a=fingerprint:sha-256 " in sdp(receiver, "remote", kind)
    for page in (alice, bob):
        assert page.run("phone.media()") > 0
    bob.run("phone.session.terminate()")
    for page in (alice, bob):
        page.until("ended")
    assert alice.run("phone.causes") == [
        {"event": "ended", "originator": "remote", "cause": "Terminated", "status": None}
    ]


def test_either_side_holds_the_call(server: HasPort, pages: tuple[Page, Page]) -> None:
    register(pages[0], server, "alice")
    register(pages[1], server, "bob")
    establish(*pages, "bob")
    for holds, is_held in (pages, pages[::-1]):
        for how in ("hold", "unhold"):
            holds.run(f"phone.reoffer('{how}')")
            is_held.until(how)
    pages[0].run("phone.session.terminate()")
    pages[1].until("ended")


def test_a_call_goes_on_over_new_connections(server: HasPort, pages: tuple[Page, Page]) -> None:
    if not isinstance(server, ServerProcess):
        pytest.skip("this Kamailio keeps its contacts in memory")
    alice, bob = pages
    register(alice, server, "alice")
    register(bob, server, "bob")
    establish(alice, bob, "bob")
    server.stop(signal.SIGKILL)
    server.start()
    for page in pages:
        page.until("registered")  # again, by itself
    alice.run("phone.session.terminate()")
    bob.until("ended")  # the alias of its Contact says where it was; its GRUU, where it is


def test_the_caller_hangs_up_while_it_rings(server: HasPort, pages: tuple[Page, Page]) -> None:
    alice, bob = pages
    register(alice, server, "alice")
    register(bob, server, "bob")
    alice.run(f"phone.call('sip:bob@{DOMAIN}')")
    bob.until("ringing")
    alice.until("progress")
    alice.run("phone.session.terminate()")
    for page in (alice, bob):
        page.until("failed")
        assert page.run("phone.causes[0].cause") == "Canceled"


def test_the_callee_declines(server: HasPort, pages: tuple[Page, Page]) -> None:
    alice, bob = pages
    register(alice, server, "alice")
    register(bob, server, "bob")
    alice.run(f"phone.call('sip:bob@{DOMAIN}')")
    bob.until("ringing")
    bob.run("phone.session.terminate({status_code: 486, reason_phrase: 'Busy Here'})")
    alice.until("failed")
    assert alice.run("phone.causes[0].status") == 486


def test_who_has_unregistered_is_not_found(server: HasPort, pages: tuple[Page, Page]) -> None:
    alice, bob = pages
    register(alice, server, "alice")
    register(bob, server, "bob")
    bob.run("phone.ua.unregister()")
    bob.until("unregistered")
    alice.run(f"phone.call('sip:bob@{DOMAIN}')")
    alice.until("failed")
    assert alice.run("phone.causes[0].status") == 404


def test_a_call_to_a_page_that_is_gone_fails_at_once_and_reaches_it_when_it_is_back(
    server: HasPort, pages: tuple[Page, Page]
) -> None:
    alice, bob = pages
    register(alice, server, "alice")
    register(bob, server, "bob")
    bob.load()
    began = time.monotonic()
    alice.run(f"phone.call('sip:bob@{DOMAIN}')")
    alice.until("failed")
    assert time.monotonic() - began < 25  # and not after the 30 s of a timer
    assert alice.run("phone.causes[0].status") == 500  # of KSR.sl.sl_reply_error, as t_relay fails
    register(bob, server, "bob")  # the old contact is still there
    establish(alice, bob, "bob")
    alice.run("phone.session.terminate()")
    bob.until("ended")


def test_a_wrong_password_registers_nothing(server: HasPort, pages: tuple[Page, Page]) -> None:
    alice, _ = pages
    start(alice, server, "alice", "looking-glass")
    alice.until("registrationFailed")
