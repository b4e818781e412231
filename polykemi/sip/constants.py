"""The numbers and words of RFC 3261 that several parts need: timers, methods, reason phrases."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SIP_VERSION: Final = "SIP/2.0"
BRANCH_COOKIE: Final = "z9hG4bK"  # starts every branch of an RFC 3261 element (section 8.1.1.7)
MAX_FORWARDS: Final = 70  # section 8.1.1.6
PORT: Final = 5060
TLS_PORT: Final = 5061

# Timers in seconds, for unreliable transports (RFC 3261 table 4, RFC 6026 section 7)
T1: Final = 0.5  # round trip time estimate
T2: Final = 4.0  # longest interval between retransmissions of non-INVITE requests and INVITE responses
T4: Final = 5.0  # longest time that a message stays in the network
TIMER_A: Final = T1  # INVITE request retransmission, doubles
TIMER_B: Final = 64 * T1  # INVITE client transaction timeout
TIMER_C: Final = 180.0  # proxy INVITE transaction timeout, started again by each provisional response but 100
TIMER_D: Final = 32.0  # wait for response retransmissions, 0 over reliable transports
TIMER_E: Final = T1  # non-INVITE request retransmission, doubles up to T2
TIMER_F: Final = 64 * T1  # non-INVITE client transaction timeout
TIMER_G: Final = T1  # INVITE response retransmission, doubles up to T2
TIMER_H: Final = 64 * T1  # wait for ACK
TIMER_I: Final = T4  # wait for ACK retransmissions, 0 over reliable transports
TIMER_J: Final = 64 * T1  # wait for request retransmissions, 0 over reliable transports
TIMER_K: Final = T4  # wait for response retransmissions, 0 over reliable transports
TIMER_L: Final = 64 * T1  # wait for INVITE retransmissions after a 2xx
TIMER_M: Final = 64 * T1  # wait for 2xx retransmissions and further 2xx

# RFC 3261, 3262 (PRACK), 3311 (UPDATE), 3428 (MESSAGE), 3515 (REFER), 3903 (PUBLISH), 6086 (INFO), 6665 (SUBSCRIBE)
METHODS: Final = frozenset(
    (
        "ACK",
        "BYE",
        "CANCEL",
        "INFO",
        "INVITE",
        "MESSAGE",
        "NOTIFY",
        "OPTIONS",
        "PRACK",
        "PUBLISH",
        "REFER",
        "REGISTER",
        "SUBSCRIBE",
        "UPDATE",
    )
)

# RFC 3261 section 21; the others name their source
REASONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        100: "Trying",
        180: "Ringing",
        181: "Call Is Being Forwarded",
        182: "Queued",
        183: "Session Progress",
        199: "Early Dialog Terminated",  # RFC 6228
        200: "OK",
        202: "Accepted",  # RFC 3265
        204: "No Notification",  # RFC 5839
        300: "Multiple Choices",
        301: "Moved Permanently",
        302: "Moved Temporarily",
        305: "Use Proxy",
        380: "Alternative Service",
        400: "Bad Request",
        401: "Unauthorized",
        402: "Payment Required",
        403: "Forbidden",
        404: "Not Found",
        405: "Method Not Allowed",
        406: "Not Acceptable",
        407: "Proxy Authentication Required",
        408: "Request Timeout",
        410: "Gone",
        412: "Conditional Request Failed",  # RFC 3903
        413: "Request Entity Too Large",
        414: "Request-URI Too Long",
        415: "Unsupported Media Type",
        416: "Unsupported URI Scheme",
        417: "Unknown Resource-Priority",  # RFC 4412
        420: "Bad Extension",
        421: "Extension Required",
        422: "Session Interval Too Small",  # RFC 4028
        423: "Interval Too Brief",
        424: "Bad Location Information",  # RFC 6442
        428: "Use Identity Header",  # RFC 8224
        429: "Provide Referrer Identity",  # RFC 3892
        430: "Flow Failed",  # RFC 5626
        433: "Anonymity Disallowed",  # RFC 5079
        436: "Bad Identity Info",  # RFC 8224
        437: "Unsupported Credential",  # RFC 8224
        438: "Invalid Identity Header",  # RFC 8224
        439: "First Hop Lacks Outbound Support",  # RFC 5626
        440: "Max-Breadth Exceeded",  # RFC 5393
        469: "Bad Info Package",  # RFC 6086
        470: "Consent Needed",  # RFC 5360
        477: "Unfortunately error on sending to next hop occurred",  # Kamailio's, as the next
        478: "Unresolvable destination",
        480: "Temporarily Unavailable",
        481: "Call/Transaction Does Not Exist",
        482: "Loop Detected",
        483: "Too Many Hops",
        484: "Address Incomplete",
        485: "Ambiguous",
        486: "Busy Here",
        487: "Request Terminated",
        488: "Not Acceptable Here",
        489: "Bad Event",  # RFC 6665
        491: "Request Pending",
        493: "Undecipherable",
        494: "Security Agreement Required",  # RFC 3329
        500: "Server Internal Error",
        501: "Not Implemented",
        502: "Bad Gateway",
        503: "Service Unavailable",
        504: "Server Time-out",
        505: "Version Not Supported",
        513: "Message Too Large",
        555: "Push Notification Service Not Supported",  # RFC 8599
        580: "Precondition Failure",  # RFC 3312
        600: "Busy Everywhere",
        603: "Decline",
        604: "Does Not Exist Anywhere",
        606: "Not Acceptable",
        607: "Unwanted",  # RFC 8197
        608: "Rejected",  # RFC 8688
    }
)
