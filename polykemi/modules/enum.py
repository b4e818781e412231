"""enum: telephone numbers to URIs through DNS (Kamailio: enum; RFC 6116, infrastructure ENUM after RFC 5067).

A question to DNS blocks the server until the answer is there, at most ``SECONDS``, as it blocks a worker of Kamailio.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.numbers import leading_number
from polykemi.kemi.pattern import Match
from polykemi.kemi.posix import BadPattern, compile_posix
from polykemi.kemi.registry import export
from polykemi.modules.base import Module
from polykemi.sip.locate import Naptr
from polykemi.sip.uri import parse_uri
from polykemi.transaction.target import Target

log = logging.getLogger("polykemi.script")

SECONDS: Final = 5.0  # waited for an answer of DNS
_FIRST_Q: Final = 990  # of the best URIs, in thousandths; 10 less for each worse preference
_EBL: Final = 65300  # the type of records that say where the label stands
_E164: Final = re.compile(r"\+[0-9]{1,255}")
# country codes of one and of two digits; all others have three
_COUNTRY_CODE: Final = re.compile(r"([17])[0-9]|(2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58])|([2-9][0-9].)")


@dataclass(frozen=True, slots=True)
class EnumParams:
    """Kamailio's names and defaults. ``bl_algorithm``: cc, txt or ebl, how the branch label of infrastructure ENUM is placed."""

    domain_suffix: str = "e164.arpa."
    tel_uri_params: str = ""  # behind each URI, with its ";"
    branchlabel: str = "i"
    i_enum_suffix: str = "e164.arpa."  # without effect for scripts, as in Kamailio: they use domain_suffix
    bl_algorithm: str = "cc"

    def __post_init__(self) -> None:
        if self.bl_algorithm.lower() not in ("cc", "txt", "ebl"):
            raise ValueError(f"bl_algorithm: expected cc, txt or ebl, got {self.bl_algorithm!r}")


class Enum(Module):
    """Functions end in what they are given: nothing, ``suffix`` (the domain), ``service`` (``voice``, or ``+a+b`` for one of these)."""

    name = "enum"
    Params = EnumParams

    # ---- the Request-URI
    @export()
    def enum_query(self, ctx: RouteContext) -> int:
        """Look the number of the Request-URI up; the URIs found become the destination set. Answers 1, or -1."""
        return self._query(ctx, _user(ctx.ruri), self.params.domain_suffix, "")

    @export()
    def enum_query_suffix(self, ctx: RouteContext, vsuffix: str) -> int:
        """Look the number of the Request-URI up in the domain ``vsuffix``. Answers 1, or -1."""
        return self._query(ctx, _user(ctx.ruri), vsuffix, "")

    @export()
    def enum_query_suffix_service(self, ctx: RouteContext, vsuffix: str, vservice: str) -> int:
        """Look the number of the Request-URI up for a service. Answers 1, or -1."""
        return self._query(ctx, _user(ctx.ruri), vsuffix, vservice)

    # ---- any number
    @export()
    def enum_pv_query(self, ctx: RouteContext, ve164: str) -> int:
        """Look the number ``ve164`` up; the URIs found become the destination set. Answers 1, or -1."""
        return self._query(ctx, ve164, self.params.domain_suffix, "")

    @export()
    def enum_pv_query_suffix(self, ctx: RouteContext, ve164: str, vsuffix: str) -> int:
        """Look the number ``ve164`` up in the domain ``vsuffix``. Answers 1, or -1."""
        return self._query(ctx, ve164, vsuffix, "")

    @export()
    def enum_pv_query_suffix_service(self, ctx: RouteContext, ve164: str, vsuffix: str, vservice: str) -> int:
        """Look the number ``ve164`` up for a service. Answers 1, or -1."""
        return self._query(ctx, ve164, vsuffix, vservice)

    # ---- infrastructure ENUM
    @export()
    def i_enum_query(self, ctx: RouteContext) -> int:
        """Look the number of the Request-URI up in the carriers' tree. Answers 1, or -1."""
        return self._infrastructure(ctx, self.params.domain_suffix, "")

    @export()
    def enum_i_query_suffix(self, ctx: RouteContext, vsuffix: str) -> int:
        """Look the number of the Request-URI up in the carriers' tree of the domain ``vsuffix``. Answers 1, or -1."""
        return self._infrastructure(ctx, vsuffix, "")

    @export()
    def i_enum_query_suffix_service(self, ctx: RouteContext, vsuffix: str, vservice: str) -> int:
        """Look the number of the Request-URI up in the carriers' tree for a service. Answers 1, or -1."""
        return self._infrastructure(ctx, vsuffix, vservice)

    # ---- the caller
    @export()
    def is_from_user_enum(self, ctx: RouteContext) -> int:
        """Tell whether the request comes from the host to which the number of From leads.

        Answers 1, -1 no number, -3 not found, -5 or -6 a bad record, -7 a bad URI, -8 another host.
        """
        return self._is_from(ctx, self.params.domain_suffix, "")

    @export()
    def is_from_user_enum_suffix(self, ctx: RouteContext, vsuffix: str) -> int:
        """Tell whether the request comes from where the number of From leads. Answers as ``is_from_user_enum``."""
        return self._is_from(ctx, vsuffix, "")

    @export()
    def is_from_user_enum_suffix_service(self, ctx: RouteContext, vsuffix: str, vservice: str) -> int:
        """Tell whether the request comes from where the number of From leads. Answers as ``is_from_user_enum``."""
        return self._is_from(ctx, vsuffix, vservice)

    # ---- what they do
    def _query(self, ctx: RouteContext, number: str, suffix: str, service: str) -> int:
        if not _E164.fullmatch(number):
            log.error("enum: %r is no number with + in front", number)
            return -1
        return self._take(ctx, number, _domain(number, suffix), service)

    def _take(self, ctx: RouteContext, number: str, domain: str, service: str) -> int:
        """Make what DNS says of ``domain`` the destination set."""
        records = sorted(self.services.dns.naptr(domain, SECONDS), key=lambda r: (r.order, r.preference))
        q, worst, found = _FIRST_Q, (-1, -1), False
        for record in records:
            if not _offers(record, service):
                continue
            try:
                uri = _rewritten(record.regexp, number)
            except ValueError as error:
                log.error("enum: %s: %s", domain, error)
                continue
            if self.params.tel_uri_params:
                head, question, headers = uri.partition("?")
                uri = f"{head}{self.params.tel_uri_params}{question}{headers}"
            if not found:
                ctx.ruri, found = uri, True
            else:
                q -= 10 * ((record.order, record.preference) > worst)
                ctx.branches.append(Target(uri, q=q))
            worst = record.order, record.preference
        return 1 if found else -1

    def _infrastructure(self, ctx: RouteContext, suffix: str, service: str) -> int:
        number = _user(ctx.ruri)
        if not _E164.fullmatch(number):
            log.error("enum: %r is no number with + in front", number)
            return -1
        position, label, apex = self._label(number, suffix)
        digits = number[1:]
        labels = [*reversed(digits[position:]), *([label] if label and position < len(digits) else [])]
        labels += reversed(digits[:position])
        return self._take(ctx, number, ".".join([*labels, apex]), service)

    def _label(self, number: str, suffix: str) -> tuple[int, str, str]:
        """Return behind how many digits the branch label stands, the label and the domain."""
        label, algorithm = self.params.branchlabel, self.params.bl_algorithm.lower()
        match = _COUNTRY_CODE.match(number[1:])
        position = len(next(filter(None, match.groups()))) if match and len(number) > 3 else 0
        domain = ".".join([label, *reversed(number[1 : position + 1]), suffix])
        if algorithm == "txt":
            for text in self.services.dns.txt(domain, SECONDS)[:1]:
                asked = leading_number(text)
                position = asked if 0 <= asked <= 10 else position
        elif algorithm == "ebl":
            for data in self.services.dns.raw(domain, _EBL, SECONDS)[:1]:
                if (found := _read_ebl(data)) is not None:
                    return found
            return position, "", suffix
        return position, label, suffix

    def _is_from(self, ctx: RouteContext, suffix: str, service: str) -> int:
        try:
            number = _user(ctx.message.from_.uri)
        except ParseError:
            return -1
        if not _E164.fullmatch(number):
            log.error("enum: %r is no number with + in front", number)
            return -1
        records = self.services.dns.naptr(_domain(number, suffix), SECONDS)
        if not records:
            return -3
        for record in records:
            if not _offers(record, service):
                continue
            try:
                host = parse_uri(_rewritten(record.regexp, number)).host.strip("[]")
            except ParseError:
                return -7
            except ValueError as error:
                log.error("enum: %s", error)
                return -5
            if self.services.dns.addresses(host, SECONDS)[:1] == [ctx.flow.host]:
                return 1
        return -8


def _user(uri: str) -> str:
    try:
        return parse_uri(uri).user
    except ParseError:
        return ""


def _domain(number: str, suffix: str) -> str:
    return ".".join([*reversed(number[1:]), suffix])


def _offers(record: Naptr, service: str) -> bool:
    """Tell whether a record is a URI for SIP, for ``service`` with SIP, or for one of ``+a+b``."""
    offered = record.services.lower()
    if service[:1] == "+":
        return offered.startswith("e2u+") and not set(_words(offered[4:])).isdisjoint(_words(service[1:].lower()))
    wanted = (f"e2u+{service.lower()}:sip",) if service else ("e2u+sip", "sip+e2u")
    return record.flags.lower() == "u" and offered in wanted


def _words(text: str) -> Iterator[str]:
    return filter(None, text.split("+"))


def _rewritten(rule: str, number: str) -> str:
    """Return the URI that the rule ``!pattern!replacement!`` makes of a number. Raise ValueError."""
    parts = rule.split("!")
    if len(parts) < 4 or parts[0]:
        raise ValueError(f"expected !pattern!replacement!, got {rule!r}")
    try:
        match = compile_posix(parts[1], 0).search(number)
    except BadPattern as error:
        raise ValueError(str(error)) from None
    if match is None:
        raise ValueError(f"{rule!r} does not match {number}")
    found: Match = match
    try:
        return re.sub(r"\\([0-9])|\\(.)", lambda m: (found[int(m[1])] or "") if m[1] else m[2], parts[2])
    except IndexError:
        raise ValueError(f"{rule!r}: there is no such group") from None


def _read_ebl(data: bytes) -> tuple[int, str, str] | None:
    """Return position, label and domain of an EBL record, None for one that makes no sense."""
    if len(data) < 3 or data[0] > 15 or len(data) < 2 + data[1]:
        return None
    label, at, labels = data[2 : 2 + data[1]].decode("latin-1"), 2 + data[1], []
    while at < len(data) and data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode("latin-1"))
        at += 1 + data[at]
    return data[0], label, ".".join(labels)
