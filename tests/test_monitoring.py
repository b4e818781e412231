"""docs/monitoring.md, the alerts and the dashboard name metrics that there are, and the guide names all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric

from polykemi.config import load
from polykemi.control.metrics import Metrics
from polykemi.control.sources import Sources
from polykemi.kemi.probes import Probes
from polykemi.kemi.route import Route
from polykemi.sip.flow import Listener
from polykemi.testing import ServerUnderTest
from polykemi.transport.manager import Transports
from polykemi.transport.resolver import Resolver
from polykemi.transport.tls_profiles import TlsProfile, TlsSettings
from tests.pki import Pki

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/monitoring.md").read_text()
RULES = (ROOT / "packaging/prometheus-rules.yml").read_text()
DASHBOARD = (ROOT / "packaging/grafana-dashboard.json").read_text()
PROCESS = {"process_cpu_seconds_total", "process_open_fds", "process_max_fds", "process_resident_memory_bytes"}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Metric]]:
    """All metrics of a server that uses all there is."""
    directory = tmp_path_factory.mktemp("server")
    script = directory / "script.lua"
    script.write_text("function ksr_request_route() end")
    certificate, key = Pki(directory).issue("sip", "DNS:example.test")
    tls = TlsSettings((TlsProfile(certificate=certificate, key=key),), (TlsProfile(),))
    resolver = Resolver(ask_nobody)
    transports = Transports(
        [Listener("tls", "127.0.0.1", 0)], lambda data, flow, now: None, lambda: None, lambda data, flow: None, tls=tls
    )
    with ServerUnderTest({"lua": script}, modules={"dialog": {}}, locator=resolver) as server:
        router, probes = server.node.router, Probes(counting=True)
        router.stats.of(Route.REQUEST, "ksr_request_route", "lua").add(0.01)
        router.services.counters["hep.sent"] = 1
        probes.tally("KSR.pv.get").calls += 1
        router.received_codes[200] += 1
        for message in (b"BYE sip:a@b SIP/2.0\r\n", b"SIP/2.0 200 OK\r\n"):
            transports.sent.count(message)
        yield list(Metrics(Sources(router, server.node.engines, probes, transports)).collect())
    transports.close()


async def ask_nobody(name: str, kind: str) -> None:
    return None


def written(family: Metric) -> str:
    """Return the name as Prometheus shows it."""
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def test_the_guide_has_all_metrics_in_its_table(families: list[Metric]) -> None:
    rows = ["| metric | labels | what it is |", "|---|---|---|"]
    for one in families:
        labels = dict.fromkeys(label for sample in one.samples for label in sample.labels if label != "le")
        assert one.samples, one.name
        rows.append(f"| `{written(one)}` | {', '.join(f'`{label}`' for label in labels)} | {one.documentation} |")
    table = "\n".join(rows)
    assert table in TEXT, table


def test_what_the_guide_configures_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"(?:^    .*\n)+", TEXT, re.MULTILINE)
    configured = [re.sub("(?m)^ {4}", "", one) for one in blocks if one.lstrip()[:1] == "["]
    assert len(configured) == 2
    Pki(tmp_path).ca.rename(tmp_path / "homer-ca.pem")
    file = tmp_path / "polykemi.toml"
    for text in configured:
        file.write_text(text.replace("udp:", "tls:"))  # with the key that TLS alone takes
        settings = load(file, serving=False)
        assert settings.metrics is not None or settings.hep is not None


@pytest.mark.parametrize("text", [RULES, DASHBOARD], ids=["rules", "dashboard"])
def test_alerts_and_dashboard_ask_for_metrics_that_there_are(text: str, families: list[Metric]) -> None:
    labels = {written(one): {label for s in one.samples for label in s.labels} for one in families}
    known = set(labels)
    for one in families:
        if one.type == "histogram":
            known |= {f"{one.name}_{part}" for part in ("bucket", "count", "sum")}
    asked = set(re.findall(r"\b(?:polykemi|process)_\w+", text))
    assert len(asked) > 10
    assert asked <= known | PROCESS


def test_the_alerts_have_what_prometheus_wants() -> None:
    alerts = re.split(r"\n      - alert: ", RULES)[1:]
    assert len(alerts) > 10
    for one in alerts:
        assert re.match(r"Polykemi[A-Za-z]+\n        expr: ", one)
        assert re.search(r"\n        labels: \{ severity: (critical|warning) \}\n", one)
        assert re.search(r"\n          summary: \"[^\"]+\"\n", one + "\n")
        assert one.count("(") == one.count(")")


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD)
    places = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places.add((place["x"], place["y"]))
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            assert target["expr"].count("{") == target["expr"].count("}")
    assert len(places) == len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
