"""Metrics of messages, of what the server keeps for them, and of its sockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import Metric

from polykemi.control.families import counter, gauge, histogram
from polykemi.kemi.binding import to_octets
from polykemi.modules.base import Services
from polykemi.router import Router
from polykemi.sip.tally import OTHER, REQUEST_COUNTERS, UNKNOWN_METHOD
from polykemi.transport.manager import Transports
from polykemi.transport.resolver import Resolver
from polykemi.transport.tls_profiles import TlsContexts

_CLASSES: Final = ("2xx", "3xx", "4xx", "5xx", "6xx")


def messages(router: Router) -> Iterator[Metric]:
    """Give what has come."""
    count = router.services.counters.get
    by_method = [
        *((method, count(name, 0)) for method, name in REQUEST_COUNTERS.items()),
        (OTHER, count(UNKNOWN_METHOD, 0)),
    ]
    yield counter(
        "polykemi_requests_received",
        "Requests that have come, retransmissions among them, by method.",
        ("method",),
        (((method,), number) for method, number in by_method),
    )
    yield counter(
        "polykemi_responses_received",
        "Responses that have come, retransmissions among them, by status.",
        ("code",),
        (((str(code),), number) for code, number in enumerate(router.received_codes) if number),
    )
    yield counter(
        "polykemi_malformed",
        "Malformed messages, by what was done: a request was refused, or the message was dropped.",
        ("answer",),
        ((("refused",), count("core.bad_requests", 0)), (("dropped",), count("core.dropped", 0))),
    )


def state(router: Router) -> Iterator[Metric]:
    """Give what the server keeps and how it fares."""
    yield from _transactions(router.services)
    yield from _registrations(router.services)
    yield from _dialogs(router.services)
    yield from _load(router)
    yield from _names(router.services)
    yield from _mirrored(router.services)


def _transactions(services: Services) -> Iterator[Metric]:
    count = services.counters.get
    tm: Any = services.modules.get("tm")
    if tm is not None:
        servers, clients = tm.layer.sizes()
        yield gauge(
            "polykemi_transactions",
            "Transactions that are kept, by our side in them.",
            ("side",),
            ((("server",), servers), (("client",), clients)),
        )
        yield gauge(
            "polykemi_transactions_unanswered", "Server transactions without a final response.", (), [((), tm.active())]
        )
        yield counter(
            "polykemi_transactions_opened",
            "Transactions that were opened, by our side in them.",
            ("side",),
            ((("server",), count("tmx.UAS_transactions", 0)), (("client",), count("tmx.UAC_transactions", 0))),
        )
        yield counter(
            "polykemi_transactions_completed",
            "Server transactions that got a final response, by its class.",
            ("class",),
            (((name,), count(f"tmx.{name}_transactions", 0)) for name in _CLASSES),
        )


def _registrations(services: Services) -> Iterator[Metric]:
    usrloc: Any = services.modules.get("usrloc")
    if usrloc is not None:
        yield gauge(
            "polykemi_registered_aors",
            "Addresses of record that have contacts.",
            ("table",),
            (((table,), services.location.count(table)) for table in usrloc.params.preload),
        )
        yield gauge(
            "polykemi_registered_contacts",
            "Contacts of them; of more than 1,000 addresses those that were there when the metrics were read before.",
            ("table",),
            (((table,), usrloc.contacts(table)) for table in usrloc.params.preload),
        )


def _dialogs(services: Services) -> Iterator[Metric]:
    count = services.counters.get
    if "dialog" in services.modules:
        yield gauge(
            "polykemi_dialogs",
            "Dialogs of the module dialog.",
            ("state",),
            (((name,), count(f"dialog.{name}_dialogs", 0)) for name in ("early", "active")),
        )


def _load(router: Router) -> Iterator[Metric]:
    """Give what there is too much of: messages, memory, faults."""
    count, overload = router.services.counters.get, router.overload
    yield histogram(
        "polykemi_wait_seconds",
        "How long messages have waited until they were taken, seen ten times a second; the lag of the event loop.",
        (),
        [((), router.waits)],
    )
    yield gauge(
        "polykemi_overload_ratio", "Part of the new requests that is refused now, 0 to 1.", (), [((), overload.level)]
    )
    yield counter("polykemi_overload_refused", "Requests refused because of overload.", (), [((), overload.refused)])
    yield counter("polykemi_overload_episodes", "How often overload began.", (), [((), overload.episodes)])
    limit = overload.memory
    yield gauge("polykemi_memory_limit_bytes", "Memory that the process may have, 0: no limit.", (), [((), limit)])
    yield counter(
        "polykemi_lost_datagrams",
        "Datagrams that the kernel had no room for.",
        (),
        [((), count("core.lost_datagrams", 0))],
    )
    yield counter(
        "polykemi_internal_errors",
        "Messages lost by a fault of the server itself.",
        (),
        [((), count("core.internal_errors", 0))],
    )
    yield counter(
        "polykemi_failed_commits",
        "Messages that were not sent because what they confirm could not be stored.",
        (),
        [((), count("core.failed_commits", 0))],
    )


def _names(services: Services) -> Iterator[Metric]:
    """Give what is known of the places that messages go to."""
    count = services.counters.get
    yield gauge(
        "polykemi_blocklist_entries", "Places that are passed over for a while.", (), [((), len(services.blocklist))]
    )
    if isinstance(services.locator, Resolver):
        yield gauge("polykemi_dns_cache_entries", "Answers of DNS that are kept.", (), [((), len(services.locator))])
        yield counter("polykemi_dns_queries", "Questions to DNS.", (), [((), count("dns.requests", 0))])
        yield counter(
            "polykemi_dns_failures",
            "Questions to DNS that got no answer or an error.",
            (),
            [((), count("dns.failed_dns_request", 0))],
        )


def _mirrored(services: Services) -> Iterator[Metric]:
    count = services.counters.get
    if "hep.sent" in services.counters:
        yield counter(
            "polykemi_hep_packets",
            "Messages mirrored to the capture server, and those that were dropped on the way.",
            ("result",),
            (((name,), count(f"hep.{name}", 0)) for name in ("sent", "dropped")),
        )


def sockets(transports: Transports) -> Iterator[Metric]:
    """Give what the transports do."""
    yield counter(
        "polykemi_requests_sent",
        "Requests that were sent, retransmissions among them, by method.",
        ("method",),
        (((method,), number) for method, number in sorted(transports.sent.requests().items())),
    )
    yield counter(
        "polykemi_responses_sent",
        "Responses that were sent, retransmissions among them, by status.",
        ("code",),
        (((str(code),), number) for code, number in transports.sent.responses()),
    )
    passed = sorted(transports.messages().items())
    yield counter(
        "polykemi_messages_received",
        "What has come over each transport, keep-alives among it.",
        ("transport",),
        (((proto,), come) for proto, (come, _) in passed),
    )
    yield counter(
        "polykemi_messages_sent",
        "What was sent over each transport, keep-alives among it.",
        ("transport",),
        (((proto,), gone) for proto, (_, gone) in passed),
    )
    yield gauge(
        "polykemi_connections",
        "Open connections by transport.",
        ("transport",),
        (((proto,), number) for proto, number in sorted(transports.streams.by_transport().items())),
    )
    datagrams, octets = transports.unsent()
    yield gauge("polykemi_unsent_datagrams", "Datagrams that wait for their sockets.", (), [((), datagrams)])
    yield gauge("polykemi_unsent_bytes", "Octets that wait for the peers of connections.", (), [((), octets)])
    contexts = transports.streams.contexts
    if contexts is not None:
        yield gauge(
            "polykemi_tls_certificate_expiry_timestamp_seconds",
            "When a certificate of ours ends.",
            ("certificate",),
            _ends(contexts),
        )


def _ends(contexts: TlsContexts) -> Iterator[tuple[tuple[str, ...], float]]:
    """Give each certificate's file once."""
    ends = {str(profile.certificate): end for profile, end in contexts.ends() if end is not None}
    return (((to_octets(file),), end.timestamp()) for file, end in ends.items())
