"""What Prometheus reads: checked with the parser of its own client library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

import polykemi
from polykemi.control import metrics_scripts
from polykemi.control.families import written
from polykemi.control.metrics import Metrics
from polykemi.control.sources import Sources
from polykemi.kemi.probes import Probes
from polykemi.kemi.route import Route
from polykemi.sip.flow import Flow, Listener
from polykemi.testing import ServerUnderTest
from polykemi.transport.manager import Transports
from polykemi.transport.tls_profiles import TlsProfile, TlsSettings
from tests.pki import Pki

SCRIPT = """
function ksr_request_route()
  local method = KSR.pv.get("$rm")
  if method == "INVITE" then
    KSR.tm.t_relay()
  elseif method == "MESSAGE" then
    error("not today")
  elseif method == "INFO" then
    while true do end
  else
    KSR.sl.send_reply(200, "OK")
  end
end
"""

Samples = dict[tuple[str, tuple[str, ...]], float]
MakeServer = Callable[..., ServerUnderTest]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeServer]:
    made: list[ServerUnderTest] = []

    def start(text: str = SCRIPT, **options: Any) -> ServerUnderTest:
        script = tmp_path / "script.lua"
        script.write_text(text)
        made.append(ServerUnderTest({"lua": script}, **options))
        return made[-1]

    yield start
    for server in made:
        server.close()


@pytest.fixture
def server(make: MakeServer) -> ServerUnderTest:
    return make()


def metrics(server: ServerUnderTest, transports: Transports | None = None) -> Metrics:
    return Metrics(Sources(server.node.router, server.node.engines, server.node.probes, transports))


def samples(server: ServerUnderTest, transports: Transports | None = None) -> Samples:
    """Return (name, label values in the order of their names) -> value."""
    page = metrics(server, transports).page().decode()
    families = text_string_to_metric_families(page)
    return {(s.name, tuple(v for _, v in sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def request(method: str, branch: str = "1", more: str = "") -> bytes:
    return (
        f"{method} sip:bob@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK{branch}\r\n"
        f"From: <sip:a@b>;tag=1\r\nTo: <sip:bob@192.0.2.9>\r\nCall-ID: {branch}\r\nCSeq: 1 {method}\r\n"
        f"Max-Forwards: 70\r\n{more}Content-Length: 0\r\n\r\n"
    ).encode()


def response(to: bytes, status: int) -> bytes:
    head = to.replace(b"INVITE sip:bob@192.0.2.9 SIP/2.0\r\n", b"SIP/2.0 %d X\r\n" % status, 1)
    return head.replace(b"To: <sip:bob@192.0.2.9>", b"To: <sip:bob@192.0.2.9>;tag=2")


def test_what_comes_is_counted_by_method_and_status(server: ServerUnderTest) -> None:
    for method in ("OPTIONS", "OPTIONS", "FROBNICATE"):
        server.receive(request(method, method), "192.0.2.10:5060")
    (invite,) = (s.data for s in server.receive(request("INVITE"), "192.0.2.10:5060") if s.data[:6] == b"INVITE")
    for status in (180, 183, 486):
        server.receive(response(invite, status), "192.0.2.9:5060")
    server.receive(b"OPTIONS sip:x SIP/2.0\r\nVia: broken\r\n\r\n", "192.0.2.10:5060")
    found = samples(server)
    assert found["polykemi_requests_received_total", ("OPTIONS",)] == 2 + 1  # the broken one is one too
    assert found["polykemi_requests_received_total", ("INVITE",)] == 1
    assert found["polykemi_requests_received_total", ("other",)] == 1
    codes = {labels[0]: n for (name, labels), n in found.items() if name == "polykemi_responses_received_total"}
    assert codes == {"180": 1, "183": 1, "486": 1}
    assert found["polykemi_malformed_total", ("dropped",)] == 1
    statistics = {labels[1]: n for (name, labels), n in found.items() if name == "polykemi_statistic"}
    expected = {
        "rcv_requests": 5,
        "rcv_requests_options": 3,
        "rcv_requests_invite": 1,
        "unsupported_methods": 1,
        "rcv_replies": 3,
        "rcv_replies_18x": 2,
        "rcv_replies_1xx_invite": 2,
        "rcv_replies_4xx": 1,
        "rcv_replies_486": 1,
        "rcv_replies_2xx": 0,
    }
    assert {name: statistics[name] for name in expected} == expected


def test_transactions_registrations_and_dialogs(make: MakeServer) -> None:
    server = make(modules={"dialog": {}})
    (invite,) = (s.data for s in server.receive(request("INVITE"), "192.0.2.10:5060") if s.data[:6] == b"INVITE")
    found = samples(server)
    assert found["polykemi_transactions", ("server",)] == found["polykemi_transactions", ("client",)] == 1
    assert found["polykemi_transactions_unanswered", ()] == 1
    assert found["polykemi_registered_aors", ("location",)] == 0
    assert found["polykemi_dialogs", ("active",)] == 0
    server.receive(response(invite, 486), "192.0.2.9:5060")
    found = samples(server)
    assert found["polykemi_transactions_completed_total", ("4xx",)] == 1
    assert found["polykemi_transactions_unanswered", ()] == 0
    assert found["polykemi_transactions_opened_total", ("client",)] == 1


def test_route_blocks_are_in_seconds(server: ServerUnderTest) -> None:
    for seconds in (0.25, 0.75, 0.75, 3.0):
        server.node.router.stats.of(Route.FAILURE, "ksr_failure_manage", "lua").add(seconds)
    found = samples(server)
    labels = ("ksr_failure_manage", "lua", "failure_route")
    assert found["polykemi_route_seconds_count", labels] == 4
    assert found["polykemi_route_seconds_sum", labels] == 4.75
    assert found["polykemi_route_min_seconds", labels] == 0.25
    assert found["polykemi_route_max_seconds", labels] == 3.0
    up_to = {le: found["polykemi_route_seconds_bucket", (*labels, le)] for le in ("0.1", "0.5", "1.0", "+Inf")}
    assert up_to == {"0.1": 0, "0.5": 1, "1.0": 3, "+Inf": 4}


def test_failures_are_counted_by_what_ended_the_block(server: ServerUnderTest) -> None:
    server.receive(request("MESSAGE", "1"), "192.0.2.10:5060")
    server.receive(request("MESSAGE", "2"), "192.0.2.10:5060")
    server.receive(request("INFO", "3"), "192.0.2.10:5060")
    found = samples(server)
    of = "ksr_request_route"
    causes = {
        c: found["polykemi_route_failures_total", (of, c, "lua", "request_route")]
        for c in ("error", "timeout", "memory")
    }
    assert causes == {"error": 2, "timeout": 1, "memory": 0}


def test_counters_are_read_when_asked(server: ServerUnderTest) -> None:
    counters = server.node.services.counters
    counters["usrloc.location_expires"] = 1
    page = metrics(server).page
    counters["usrloc.location_expires"] += 1
    assert b'polykemi_statistic{group="usrloc",name="location_expires"} 2\n' in page()


def test_who_asks_all_the_time_gets_the_same_page(server: ServerUnderTest) -> None:
    now = 0.0
    page = Metrics(Sources(server.node.router, server.node.engines, server.node.probes), lambda: now).page
    first = page()
    server.receive(request("OPTIONS"), "192.0.2.10:5060")
    now = 0.2
    assert page() is first
    now = 0.3
    assert b'polykemi_requests_received_total{method="OPTIONS"} 1\n' in page()


def test_version_and_process(server: ServerUnderTest) -> None:
    found = samples(server)
    form = "compiled" if polykemi.compiled else "pure"
    assert found["polykemi_info", ("lua", form, polykemi.__version__)] == 1
    assert found["process_cpu_seconds_total", ()] > 0


def test_calls_versions_and_memory(server: ServerUnderTest) -> None:
    probes = Probes(counting=True)
    probes.tally("KSR.pv.get").calls += 3
    probes.tally("KSR.tm.t_relay").errors += 1
    probes.tally("KSR.never")
    server.node.services.counters.update({"app.reloads": 2, "app.failed_reloads": 1})
    sources = Sources(server.node.router, server.node.engines, probes)
    families = list(Metrics(sources).collect())
    found = {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}
    assert found["polykemi_ksr_calls_total", "KSR.pv.get"] == 3
    assert found["polykemi_ksr_errors_total", "KSR.tm.t_relay"] == 1
    assert not [key for key in found if "KSR.never" in key]
    assert found["polykemi_version",] == 1
    assert found["polykemi_version_loaded_timestamp_seconds",] == server.now
    results = {result: found["polykemi_reloads_total", result] for result in ("done", "failed", "rollback")}
    assert results == {"done": 2, "failed": 1, "rollback": 0}
    assert found["polykemi_engine_memory_bytes", "lua"] == server.node.engines["lua"].memory()


def test_waits_and_overload(server: ServerUnderTest) -> None:
    router = server.node.router
    for waited in (0.0, 0.02, 9.0):
        router.beat(waited, 0, 0, server.now)
    router.overload.level = 0.25
    found = samples(server)
    assert found["polykemi_wait_seconds_count", ()] == 3
    assert found["polykemi_wait_seconds_bucket", ("0.025",)] == 2
    assert found["polykemi_overload_ratio", ()] == 0.25


def test_a_block_that_has_not_run_has_no_samples(server: ServerUnderTest) -> None:
    server.node.router.stats.of(Route.REQUEST, "main", "lua")
    assert not [labels for name, labels in samples(server) if name.startswith("polykemi_route")]


def test_names_that_a_script_makes_up_break_nothing(server: ServerUnderTest) -> None:
    for callback in ('a"b\\c\nd', "j\xc3\xbcrgen", "\xff"):
        server.node.router.stats.of(Route.EVENT, callback, "lua").add(1.0)
    blocks = {labels[0] for name, labels in samples(server) if name == "polykemi_route_seconds_count"}
    assert blocks == {'a"b\\c\nd', "jürgen", "\\xff"}


def test_the_page_says_what_the_client_library_would_write(server: ServerUnderTest) -> None:
    server.receive(request("INVITE"), "192.0.2.10:5060")
    for callback in ('a"b\\c\nd', "j\xc3\xbcrgen", ""):
        server.node.router.stats.of(Route.EVENT, callback, "lua").add(0.125)
    families = list(metrics(server).collect())

    class Given(Collector):
        def collect(self) -> Iterator[Metric]:
            return iter(families)

    registry = CollectorRegistry()
    registry.register(Given())
    ours, theirs = (
        list(text_string_to_metric_families(p.decode())) for p in (written(families), generate_latest(registry))
    )
    assert [(f.name, f.type, f.documentation) for f in ours] == [(f.name, f.type, f.documentation) for f in theirs]
    assert [f.samples for f in ours] == [f.samples for f in theirs]


def test_the_page_has_a_bound(server: ServerUnderTest) -> None:
    for i in range(5000):
        server.node.router.stats.of(Route.EVENT, f"block {i}", "lua").add(1.0)
        server.node.services.counters[f"script.made-up-{i}"] = i
    page = metrics(server).page()
    assert page.count(b"polykemi_route_seconds_count{") == metrics_scripts.MOST
    assert page.count(b"polykemi_statistic{") == 2000
    assert len(page) < 1_000_000


def test_sockets_and_certificates(server: ServerUnderTest, tmp_path: Path) -> None:
    certificate, key = Pki(tmp_path).issue("server", "DNS:example.test", days=3)
    listeners = (Listener("udp", "127.0.0.1", 0), Listener("tcp", "127.0.0.1", 0), Listener("tls", "127.0.0.1", 0))
    tls = TlsSettings((TlsProfile(certificate=certificate, key=key),), (TlsProfile(),))
    transports = Transports(listeners, lambda data, flow, now: None, lambda: None, lambda data, flow: None, tls=tls)
    try:
        udp = next(one for one in transports.bound if one.proto == "udp")
        nowhere = Flow(udp, "example.test", 5060)  # counted all the same
        transports.send([(b"SIP/2.0 404 Not Found\r\n\r\n", nowhere)] * 2)
        transports.send([(request("BYE"), nowhere), (request("FROBNICATE"), nowhere), (b"\r\n\r\n", nowhere)])
        found = samples(server, transports)
    finally:
        transports.close()
    sent = {(name[9:-11], labels[0]): n for (name, labels), n in found.items() if name.endswith("s_sent_total") and n}
    assert sent == {("responses", "404"): 2, ("requests", "BYE"): 1, ("requests", "other"): 1}
    assert [found["polykemi_connections", (proto,)] for proto in ("tcp", "tls")] == [0, 0]
    ends = found["polykemi_tls_certificate_expiry_timestamp_seconds", (str(certificate),)]
    now = certificate.stat().st_mtime
    assert now + 2.9 * 86400 < ends < now + 3.1 * 86400
