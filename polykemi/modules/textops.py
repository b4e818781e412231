"""textops: search, replace and remove text in messages, by string and by POSIX regular expression.

Functions look at the message as it came, as in Kamailio; what they change is seen by the next hop. The headers are one
text to them, and the body is another: a match does not cross from one into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from polykemi.kemi.context import RouteContext
from polykemi.kemi.posix import BadPattern, compile_posix
from polykemi.kemi.registry import export
from polykemi.kemi.substitution import Substitution
from polykemi.modules.textops_changes import (
    Finder,
    appender,
    change_body,
    change_headers,
    change_message,
    change_value,
    chosen,
    replacer,
    set_content_type,
    string_replacer,
)
from polykemi.modules.textops_parts import BodyParts
from polykemi.sip.header import LWS, canonical_names
from polykemi.sip.multipart import media_type as type_of
from polykemi.sip.sdp import parse_sdp
from polykemi.sip.uri import parse_uri


@lru_cache(maxsize=512)
def _substitution(expression: str) -> Substitution:
    return Substitution(expression)


class TextOps(BodyParts):
    """Text operations on messages."""

    name = "textops"

    # ---- search
    @export(constant=True)
    def search(self, ctx: RouteContext, pattern: str) -> int:
        """Search the whole message. Answers 1 or -1."""
        return _search(pattern, str(ctx.message.raw, "latin-1"))

    @export(constant=True)
    def search_body(self, ctx: RouteContext, pattern: str) -> int:
        """Search the body. Answers 1 or -1."""
        return _search(pattern, str(ctx.message.body, "latin-1"))

    @export(constant=True)
    def search_hf(self, ctx: RouteContext, name: str, pattern: str, flags: str) -> int:
        """Search the values of the headers ``name``: all (``flags`` "a"), the first ("f") or the last ("l"). Answers 1 or -1."""
        values = chosen(ctx.message.all(canonical_names[name]), flags)
        return 1 if any(_search(pattern, value) > 0 for value in values) else -1

    @export()
    def search_str(self, ctx: RouteContext, text: str, pattern: str) -> int:
        """Search ``text``. Answers 1 or -1; 2 for an empty pattern, -2 for an empty text and a bad pattern."""
        if not pattern:
            return 2
        try:
            return -2 if not text else 1 if compile_posix(pattern).matches(text) else -1
        except BadPattern:
            return -2

    @export()
    def search_append(self, ctx: RouteContext, pattern: str, text: str) -> int:
        """Append ``text`` behind the first match in headers and body. Answers 1, or -1 without a match."""
        return change_message(ctx, appender(pattern, text), 1)

    @export()
    def search_append_body(self, ctx: RouteContext, pattern: str, text: str) -> int:
        """Append ``text`` behind the first match in the body. Answers 1, or -1 without a match."""
        return 1 if change_body(ctx, appender(pattern, text), 1) else -1

    # ---- replace
    @export()
    def replace(self, ctx: RouteContext, pattern: str, text: str) -> int:
        """Replace the first match in headers and body by ``text``. Answers 1, or -1 without a match."""
        return change_message(ctx, replacer(pattern, text), 1)

    @export()
    def replace_all(self, ctx: RouteContext, pattern: str, text: str) -> int:
        """Replace all matches in headers and body by ``text``. Answers 1, or -1 without a match."""
        return change_message(ctx, replacer(pattern, text), 0)

    @export()
    def replace_hdrs(self, ctx: RouteContext, pattern: str, text: str) -> int:
        """Replace all matches in the headers by ``text``. Answers 1, or -1 without a match."""
        return 1 if change_headers(ctx, replacer(pattern, text), 0) else -1

    @export()
    def replace_body(self, ctx: RouteContext, pattern: str, text: str) -> int:
        """Replace the first match in the body by ``text``. Answers 1, or -1 without a match."""
        return 1 if change_body(ctx, replacer(pattern, text), 1) else -1

    @export()
    def replace_body_all(self, ctx: RouteContext, pattern: str, text: str) -> int:
        """Replace all matches in the body by ``text``. Answers 1, or -1 without a match."""
        return 1 if change_body(ctx, replacer(pattern, text), 0) else -1

    @export()
    def replace_body_atonce(self, ctx: RouteContext, pattern: str, text: str) -> int:
        """Replace all matches in the body by ``text``, as ``replace_body_all`` does. Answers 1, or -1 without a match."""
        return 1 if change_body(ctx, replacer(pattern, text), 0) else -1

    @export()
    def replace_str(self, ctx: RouteContext, old: str, new: str, mode: str) -> int:
        """Replace the string ``old`` in headers and body: once (``mode`` "f") or always ("a"). Answers 1, found or not."""
        change_message(ctx, string_replacer(old, new), 0 if mode == "a" else 1)
        return 1

    @export()
    def replace_hdrs_str(self, ctx: RouteContext, old: str, new: str, mode: str) -> int:
        """Replace the string ``old`` in the headers: once (``mode`` "f") or always ("a"). Answers 1, found or not."""
        change_headers(ctx, string_replacer(old, new), 0 if mode == "a" else 1)
        return 1

    @export()
    def replace_body_str(self, ctx: RouteContext, old: str, new: str, mode: str) -> int:
        """Replace the string ``old`` in the body: once (``mode`` "f") or always ("a"). Answers 1, found or not, -1 without body."""
        change_body(ctx, string_replacer(old, new), 0 if mode == "a" else 1)
        return 1 if ctx.message.body else -1

    # ---- substitute
    @export()
    def subst(self, ctx: RouteContext, expression: str) -> int:
        """Apply ``/regex/replacement/flags`` to headers and body. Answers 1, or -1 without a match."""
        find = self._finder(ctx, expression)
        return -1 if find is None else change_message(ctx, find, 0 if _substitution(expression).every else 1)

    @export()
    def subst_body(self, ctx: RouteContext, expression: str) -> int:
        """Apply ``/regex/replacement/flags`` to the body. Answers 1, or -1 without a match."""
        find = self._finder(ctx, expression)
        return 1 if find is not None and change_body(ctx, find, 0) else -1

    @export()
    def subst_hf(self, ctx: RouteContext, name: str, expression: str, flags: str) -> int:
        """Apply ``/regex/replacement/flags`` to the values of the headers ``name``: all ("a"), first ("f") or last ("l").

        Answers 1, or -1 without a match.
        """
        find = self._finder(ctx, expression)
        if find is None:
            return -1
        lines = chosen(ctx.message.indexes(canonical_names[name]), flags)
        found = [change_value(ctx, index, find) for index in lines if index not in ctx.edits.removed]
        return 1 if any(found) else -1

    @export()
    def subst_uri(self, ctx: RouteContext, expression: str) -> int:
        """Apply ``/regex/replacement/flags`` to the Request-URI. Answers 1, or -1 without a match."""
        uri = self._substituted(ctx, expression, ctx.ruri)
        if uri is None:
            return -1
        ctx.ruri = parse_uri(uri).text
        return 1

    @export()
    def subst_user(self, ctx: RouteContext, expression: str) -> int:
        """Apply ``/regex/replacement/flags`` to the user of the Request-URI. Answers 1, or -1 without a match."""
        uri = parse_uri(ctx.ruri)
        user = self._substituted(ctx, expression, uri.user)
        if user is None:
            return -1
        ctx.ruri = parse_uri(uri.changed(user=user)).text
        return 1

    @export()
    def subst_v(self, ctx: RouteContext, text: str, expression: str, variable: str) -> int:
        """Apply ``/regex/replacement/flags`` to ``text`` and store the result in the variable named ``variable``.

        Answers 1, or -1 without a match.
        """
        result = self._substituted(ctx, expression, text)
        return 1 if result is not None and self.services.variables.put(ctx, variable, result) else -1

    def _finder(self, ctx: RouteContext, expression: str) -> Finder | None:
        """Return what finds the places that ``expression`` changes; None when it does not parse."""
        substitution = self._parsed(expression)
        if substitution is None:
            return None
        return lambda text, _: substitution.places(text, lambda name: self._expand(ctx, name))

    def _substituted(self, ctx: RouteContext, expression: str, text: str) -> str | None:
        """Return ``text`` as ``expression`` changes it; None when nothing is found or it does not parse."""
        substitution = self._parsed(expression)
        if substitution is None:
            return None
        changed, count = substitution.apply(text, lambda name: self._expand(ctx, name))
        return changed if count > 0 else None

    def _parsed(self, expression: str) -> Substitution | None:
        try:
            substitution = _substitution(expression)
        except BadPattern:
            return None
        variables = self.services.variables
        return None if any(variables.compile(name) is None for name in substitution.variables) else substitution

    def _expand(self, ctx: RouteContext, name: str) -> str:
        value = self.services.variables.getters[name](ctx)
        return "" if value is None else str(value)

    @export()
    def regex_substring(self, ctx: RouteContext, text: str, pattern: str, index: int, count: int, variable: str) -> int:
        """Store group ``index`` of the first match of ``pattern`` in ``variable``.

        ``count``: how many groups are looked at, the whole match (group 0) included. Answers 1, -2 without a match, -1
        for a group that is empty or not there.
        """
        if not 0 <= index < count:
            return -1
        try:
            compiled = compile_posix(pattern, 0)
        except BadPattern:
            return -1
        match = compiled.search(text)
        if match is None:
            return -2
        found = match[index] if index <= compiled.groups else None
        return 1 if found and self.services.variables.put(ctx, variable, found) else -1

    # ---- headers
    @export(constant=True)
    def is_present_hf(self, ctx: RouteContext, name: str) -> int:
        """Tell whether there is a header ``name``, compact forms included. Answers 1 or -1."""
        return 1 if canonical_names[name] in ctx.message.names else -1

    @export(constant=True)
    def is_present_hf_re(self, ctx: RouteContext, pattern: str) -> int:
        """Tell whether there is a header whose name matches ``pattern``. Answers 1 or -1."""
        return 1 if any(_search(pattern, name) > 0 for _, name in _header_names(ctx)) else -1

    @export()
    def remove_hf(self, ctx: RouteContext, name: str) -> int:
        """Remove all headers ``name``, compact forms included. Answers 1, found or not."""
        ctx.edits.removed.update(ctx.message.indexes(canonical_names[name]))
        return 1

    @export()
    def remove_hf_re(self, ctx: RouteContext, pattern: str) -> int:
        """Remove all headers whose name matches ``pattern``. Answers 1, or -1 when there is none."""
        return _remove(ctx, [i for i, name in _header_names(ctx) if _search(pattern, name) > 0])

    @export()
    def remove_hf_exp(self, ctx: RouteContext, pattern: str, but: str) -> int:
        """Remove all headers whose name matches ``pattern`` but not ``but``. Answers 1, or -1 when there is none."""
        names = _header_names(ctx)
        return _remove(ctx, [i for i, name in names if _search(pattern, name) > 0 > _search(but, name)])

    @export()
    def remove_hf_idx(self, ctx: RouteContext, name: str, index: int) -> int:
        """Remove the header ``name`` with number ``index``: 0 is the first, -1 the last. Answers 1, or 2 when there is none."""
        found = ctx.message.indexes(canonical_names[name])
        return _remove(ctx, [found[index]] if -len(found) <= index < len(found) else [], none=2)

    @export()
    def remove_hf_match(self, ctx: RouteContext, name: str, operator: str, text: str) -> int:
        """Remove the headers ``name`` whose value equals (eq), does not equal (ne), includes (in) or matches (re) ``text``.

        Answers 1, -2 when there is none, -1 for another operator.
        """
        test = _VALUE_TESTS.get(operator)
        if test is None:
            return -1
        message = ctx.message
        return _remove(
            ctx, [i for i in message.indexes(canonical_names[name]) if test(message.value(i), text)], none=-2
        )

    @export(constant=True)
    def is_privacy(self, ctx: RouteContext, kind: str) -> int:
        """Tell whether the Privacy header (RFC 3323) has the value ``kind``. Answers 1 or -1."""
        values = {value.strip(LWS).lower() for value in (ctx.message.get("privacy") or "").split(";")}
        if not values <= _PRIVACY or ("none" in values and len(values) > 1):
            return -1  # the header is malformed
        return 1 if kind.lower() in values else -1

    # ---- body
    @export(constant=True)
    def has_body(self, ctx: RouteContext) -> int:
        """Tell whether the message has a body. Answers 1 or -1."""
        return 1 if ctx.message.body else -1

    @export(constant=True)
    def has_body_type(self, ctx: RouteContext, media_type: str) -> int:
        """Tell whether the message has a body of ``media_type``, as ``application/sdp``. Answers 1 or -1."""
        if not ctx.message.body:
            return -1
        value = ctx.message.get("content-type") or "application/sdp"  # what Kamailio takes a body without type for
        return 1 if type_of(value) == media_type.lower() else -1

    @export()
    def set_body(self, ctx: RouteContext, body: str, media_type: str) -> int:
        """Replace the body. Answers 1, or -1 without body or type."""
        return _set_body(ctx, body.encode("latin-1"), media_type)

    @export()
    def set_body_hex(self, ctx: RouteContext, digits: str, media_type: str) -> int:
        """Replace the body like ``set_body``; it is given as hex digits. Answers 1 or -1."""
        try:
            return _set_body(ctx, bytes.fromhex(digits), media_type)
        except ValueError:
            return -1

    @export()
    def set_reply_body(self, ctx: RouteContext, body: str, media_type: str) -> int:
        """Set the body of the replies that we make to this request. Answers 1, or -1 without body or type."""
        return _set_reply_body(ctx, body.encode("latin-1"), media_type)

    @export()
    def set_reply_body_hex(self, ctx: RouteContext, digits: str, media_type: str) -> int:
        """Set the body of replies like ``set_reply_body``; it is given as hex digits. Answers 1 or -1."""
        try:
            return _set_reply_body(ctx, bytes.fromhex(digits), media_type)
        except ValueError:
            return -1

    @export(constant=True)
    def is_audio_on_hold(self, ctx: RouteContext) -> int:
        """Tell whether the SDP puts an audio stream on hold. Answers 1 (address 0.0.0.0), 2 (sendonly, inactive) or -1."""
        sdp = parse_sdp(str(ctx.message.body, "latin-1"), ctx.message.get("content-type"))
        for session in sdp.sessions if sdp is not None else ():
            trickles = False
            for media in session.media:
                trickles = trickles or media.trickles
                held = (media.address or session.address) == "0.0.0.0" and not (trickles and media.port == "9")
                if media.kind == "audio" and (media.on_hold or held or session.on_hold):
                    return 2 if media.on_hold or not held else 1
        return -1


_PRIVACY = frozenset(("critical", "header", "history", "id", "none", "session", "user"))  # RFC 3323, 3325, 4244


def _search(pattern: str, text: str) -> int:
    try:
        return 1 if compile_posix(pattern).matches(text) else -1
    except BadPattern:
        return -1


_VALUE_TESTS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda value, text: value == text,
    "ne": lambda value, text: value != text,
    "in": lambda value, text: text in value,
    "re": lambda value, text: _search(text, value) > 0,
}


def _header_names(ctx: RouteContext) -> Iterator[tuple[int, str]]:
    """Iterate over line number and name, as written, of each header."""
    for i, line in enumerate(ctx.message.lines):
        yield i, line.partition(":")[0].rstrip(LWS)


def _remove(ctx: RouteContext, indexes: list[int], *, none: int = -1) -> int:
    """Remove header lines; return 1, or ``none`` when there are none."""
    ctx.edits.removed.update(indexes)
    return 1 if indexes else none


def _set_body(ctx: RouteContext, body: bytes, media_type: str) -> int:
    if not body or not media_type or "\n" in media_type or "\r" in media_type:
        return -1
    set_content_type(ctx, media_type)
    ctx.edits.body = body
    return 1


def _set_reply_body(ctx: RouteContext, body: bytes, media_type: str) -> int:
    if not body or not media_type or "\n" in media_type or "\r" in media_type:
        return -1
    kept = [line for line in ctx.reply_headers if line[:13].lower() != "content-type:"]
    ctx.reply_headers = [*kept, f"Content-Type: {media_type}"]
    ctx.cache["reply_body"] = body
    return 1
