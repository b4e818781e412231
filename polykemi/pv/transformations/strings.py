"""``{s.*}`` and ``{line.*}``: strings of octets."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable
from typing import Final

from polykemi.kemi import hashes
from polykemi.kemi.numbers import is_number
from polykemi.kemi.registry import Xval
from polykemi.pv.classes.times import format_time, local
from polykemi.pv.transformations.shape import Step, character, integer, string
from polykemi.sip.uri import unescape

_LWS: Final = " \t\r\n"
_MAX: Final = 65535  # longest text that a transformation makes


def _octets(text: str) -> bytes:
    return text.encode("latin-1", "replace")


# ---- parts
def substr(text: str, offset: int, length: int) -> Xval:
    """Return ``length`` characters from ``offset`` (negative: from the end); length 0 is the rest."""
    start = offset if offset >= 0 else len(text) + offset
    if start < 0 or start >= len(text) or length < 0:
        return None
    return text[start:] if length == 0 else text[start : start + length]


def select(text: str, index: int, separator: str) -> Xval:
    """Return one field; negative indexes count from the end; empty outside."""
    fields = text.split(separator)
    return fields[index] if -len(fields) <= index < len(fields) else ""


def select_any(text: str, index: int, separators: str) -> Xval:
    """Return one field of a text that is split at any of ``separators``."""
    for other in separators[1:]:
        text = text.replace(other, separators[0])
    return select(text, index, separators[0]) if separators else None


def strip(text: str, count: int) -> Xval:
    """Return the text without its first ``count`` characters."""
    return text[count:] if count > 0 else text


def strip_tail(text: str, count: int) -> Xval:
    """Return the text without its last ``count`` characters."""
    return text[:-count] if count > 0 else text


def strip_to(text: str, mark: str) -> Xval:
    """Return the text from the first ``mark`` on; empty when there is none."""
    at = text.find(mark)
    return text[at:] if at >= 0 else ""


def after(text: str, mark: str) -> Xval:
    """Return what stands behind the first ``mark``; empty when there is none."""
    return text.partition(mark)[2]


def after_last(text: str, mark: str) -> Xval:
    """Return what stands behind the last ``mark``; empty when there is none."""
    return text.rpartition(mark)[2] if mark in text else ""


def before_last(text: str, mark: str) -> Xval:
    """Return what stands before the last ``mark``; all of it when there is none."""
    return text.rpartition(mark)[0] if mark in text else text


def char_at(text: str, at: int) -> Xval:
    """Return the character at a position."""
    return text[at] if 0 <= at < len(text) else None


def byte_at(text: str, at: int) -> Xval:
    """Return the octet at a position, as number."""
    return ord(text[at]) if 0 <= at < len(text) else None


def prefixes(text: str, limit: int = _MAX, quote: str = "") -> Xval:
    """Return all prefixes up to ``limit`` characters, comma-separated."""
    count = min(len(text), limit) if limit > 0 else len(text)
    return ",".join([quote + text[:n] + quote for n in range(1, min(count, 512) + 1)])


def unquote(text: str) -> Xval:
    """Return the text without the quotes around it."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def unbracket(text: str) -> Xval:
    """Return the text without the brackets around it."""
    return text[1:-1] if len(text) > 1 and text[0] + text[-1] in ("()", "[]", "{}", "<>") else text


def fold(text: str, width: int, indent: int = 0, filler: str = " ") -> Xval:
    """Break the text into lines of ``width`` characters; each but the first starts with ``indent`` fillers."""
    if width <= 0 or indent < 0 or (len(text) // width + 1) * (indent + 2) > _MAX:
        return None
    lines = [text[i : i + width] for i in range(0, len(text), width)] or [""]
    return ("\r\n" + filler * indent).join(lines)


# ---- numbers
def to_int(text: str) -> Xval:
    """Return the text as number, null when it is none; an empty text is 0."""
    if not text:
        return 0
    return int(text) if is_number(text) else None


def core_hash(text: str, size: int = 0) -> Xval:
    """Return Kamailio's hash of the text as text, masked with ``size - 1`` when that is given."""
    h = hashes.core_hash(_octets(text))
    return str(h & (size - 1) if size > 0 else h)


# ---- codes
def _hashed(name: str) -> Callable[[str], Xval]:
    return lambda text: hashlib.new(name, _octets(text), usedforsecurity=False).hexdigest()


def sha3(text: str, bits: int) -> Xval:
    """Return the SHA-3 in hex; null for a size that SHA-3 does not have."""
    return _hashed(f"sha3_{bits}")(text) if bits in (224, 256, 384, 512) else None


def from_hex(text: str) -> Xval:
    """Decode hex digits; null for anything else."""
    try:
        return binascii.unhexlify(_octets(text)).decode("latin-1")
    except binascii.Error:
        return None


def _to_base64(altchars: bytes | None, *, padded: bool) -> Callable[[str], Xval]:
    def encode(text: str) -> Xval:
        code = base64.b64encode(_octets(text), altchars).decode("ascii")
        return code if padded else code.rstrip("=")

    return encode


def _from_base64(altchars: bytes | None, *, padded: bool = False) -> Callable[[str], Xval]:
    """Return the function that decodes; null for other characters, and with ``padded`` for a length that is no 4n."""

    def decode(text: str) -> Xval:
        code = _octets(text).rstrip(b"=")
        if (padded and len(text) % 4) or (altchars and (not text or b"+" in code or b"/" in code)):
            return None
        try:
            return base64.b64decode(code + b"=" * (-len(code) % 4), altchars, validate=True).decode("latin-1")
        except binascii.Error:
            return None

    return decode


_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def to_base58(text: str) -> Xval:
    """Encode in base 58."""
    data = _octets(text)[:1024]
    number, code = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        code = _BASE58[digit] + code
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + code


def from_base58(text: str) -> Xval:
    """Decode base 58; null for other characters."""
    number = 0
    text = text[:2048]
    for digit in text:
        value = _BASE58.find(digit)
        if value < 0:
            return None
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    return "\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big").decode("latin-1")


def to_7bit(text: str) -> Xval:
    """Pack characters of seven bits as GSM does, in hex."""
    number = sum((octet & 0x7F) << (7 * i) for i, octet in enumerate(_octets(text)[:1024]))
    return number.to_bytes((7 * min(len(text), 1024) + 7) // 8, "little").hex().upper()


def from_7bit(text: str) -> Xval:
    """Unpack characters of seven bits."""
    packed = from_hex(text[:2048])
    if not isinstance(packed, str):
        return None
    number = int.from_bytes(_octets(packed), "little")
    characters = [chr(number >> (7 * i) & 0x7F) for i in range(len(packed) * 8 // 7)]
    return "".join(characters).rstrip("\0")


def escape_common(text: str) -> Xval:
    """Put a backslash before quotes, backslash and NUL (as ``\\0``)."""
    return re.sub(r"(['\"\\])", r"\\\1", text).replace("\0", "\\0")


def unescape_common(text: str) -> Xval:
    """Undo escape.common."""
    return re.sub(r"\\(['\"\\0])", lambda m: "\0" if m[1] == "0" else m[1], text)


def _percent(keep: str, *, printable: bool = False) -> Callable[[str], Xval]:
    """Return the function that writes all but letters, digits and ``keep`` as %hex.

    With ``printable`` it gives null for a text with other octets than ASCII's printable ones.
    """
    unsafe = re.compile(f"[^A-Za-z0-9{re.escape(keep)}]")

    def escaped(text: str) -> Xval:
        return None if printable and _UNPRINTABLE.search(text) else unsafe.sub(lambda m: f"%{ord(m[0]):02x}", text)

    return escaped


_UNPRINTABLE: Final = re.compile("[^ -~]")
_WRONG_ESCAPE: Final = re.compile("%(?![2-7][0-9A-Fa-f])|%7[fF]")


def _unescaped(text: str) -> Xval:
    """Undo escape.user and escape.param; null for a wrong escape, or one of what is not printable."""
    return None if _WRONG_ESCAPE.search(text) else unescape(text)


def json_text(text: str) -> str:
    """Escape for a JSON string; octets above 0x7F stay (UTF-8)."""
    names = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return re.sub(r'["\\\x00-\x1f]', lambda m: names.get(m[0]) or f"\\u{ord(m[0]):04x}", text)


def replace(text: str, match: str, other: str) -> Xval:
    """Replace every ``match``; null when the result would be too long."""
    if not match:
        return text
    changed = text.replace(match, other)
    return changed if len(changed) <= _MAX else None


def format_seconds(text: str, pattern: str) -> Xval:
    """Format seconds since the epoch by strftime."""
    seconds = to_int(text)
    if not isinstance(seconds, int) or not 0 <= seconds < 1 << 37:
        return None
    return format_time(local(seconds), pattern)


# ---- lines
def lines(text: str) -> list[str]:
    """Return the lines, without their ends."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def line_at(text: str, index: int) -> Xval:
    """Return one line; negative indexes count from the end; empty outside."""
    all_lines = lines(text)
    return all_lines[index] if -len(all_lines) <= index < len(all_lines) else ""


def line_starting(text: str, start: str) -> Xval:
    """Return the first line that starts so; empty when there is none."""
    return next((line for line in lines(text) if line.startswith(start)), "")


_UPPER: Final = {i: i - 32 for i in range(ord("a"), ord("z") + 1)}
_LOWER: Final = {i: i + 32 for i in range(ord("A"), ord("Z") + 1)}
_USER: Final = "-_.!~*'()&=+$,;?"  # RFC 3261 section 25.1: unreserved and user-unreserved, but the slash
_PARAM: Final = "-_.!~*'()[]/:&+$"  # unreserved, param-unreserved
_URL: Final = "-_.~"

STEPS: Final[dict[str, Step]] = {
    "s.len": Step(len),
    "s.int": Step(to_int),
    "s.intv": Step(to_int),
    "s.md5": Step(_hashed("md5")),
    "s.sha1": Step(_hashed("sha1")),
    "s.sha256": Step(_hashed("sha256")),
    "s.sha384": Step(_hashed("sha384")),
    "s.sha512": Step(_hashed("sha512")),
    "s.sha3": Step(sha3, integer),
    "s.crc32": Step(lambda text: zlib.crc32(_octets(text))),
    "s.corehash": Step(core_hash, integer, optional=1),
    "s.tolower": Step(lambda text: text.translate(_LOWER)),
    "s.toupper": Step(lambda text: text.translate(_UPPER)),
    "s.numeric": Step(lambda text: re.sub("[^0-9]", "", text)),
    "s.rmws": Step(lambda text: re.sub("[ \t\r\n]", "", text)),
    "s.rmhdws": Step(lambda text: re.sub("[ \t\r\n]+", " ", text)),
    "s.rmhlws": Step(lambda text: re.sub("\r?\n[ \t]+", "", text)),
    "s.trim": Step(lambda text: text.strip(_LWS)),
    "s.rtrim": Step(lambda text: text.rstrip(_LWS)),
    "s.ltrim": Step(lambda text: text.lstrip(_LWS)),
    "s.rm": Step(lambda text, match: text.replace(match, "") if match else text, string),
    "s.replace": Step(replace, string, string),
    "s.encode.hexa": Step(lambda text: _octets(text).hex()),
    "s.decode.hexa": Step(from_hex),
    "s.encode.7bit": Step(to_7bit),
    "s.decode.7bit": Step(from_7bit),
    "s.encode.base58": Step(to_base58),
    "s.decode.base58": Step(from_base58),
    "s.encode.base64": Step(_to_base64(None, padded=True)),
    "s.decode.base64": Step(_from_base64(None, padded=True)),
    "s.encode.base64t": Step(_to_base64(None, padded=False)),
    "s.decode.base64t": Step(_from_base64(None)),
    "s.encode.base64url": Step(_to_base64(b"-_", padded=True)),
    "s.decode.base64url": Step(_from_base64(b"-_")),
    "s.encode.base64urlt": Step(_to_base64(b"-_", padded=False)),
    "s.decode.base64urlt": Step(_from_base64(b"-_")),
    "s.escape.common": Step(escape_common),
    "s.unescape.common": Step(unescape_common),
    "s.escape.crlf": Step(lambda text: text.replace("\r", "\\r").replace("\n", "\\n")),
    "s.unescape.crlf": Step(lambda text: text.replace("\\r", "\r").replace("\\n", "\n")),
    "s.escape.user": Step(_percent(_USER, printable=True)),
    "s.unescape.user": Step(_unescaped),
    "s.escape.param": Step(_percent(_PARAM, printable=True)),
    "s.unescape.param": Step(_unescaped),
    "s.escape.csv": Step(lambda text: '"' + text.replace('"', '""') + '"'),
    "s.urlencode.param": Step(_percent(_URL)),
    "s.urldecode.param": Step(lambda text: unescape(text.replace("+", " "))),
    "s.prefixes": Step(prefixes, integer, optional=1),
    "s.prefixes.quoted": Step(lambda text, limit=_MAX: prefixes(text, limit, "'"), integer, optional=1),
    "s.substr": Step(substr, integer, integer),
    "s.select": Step(select, integer, character),
    "s.selectsw": Step(select_any, integer, string),
    "s.strip": Step(strip, integer),
    "s.striptail": Step(strip_tail, integer),
    "s.stripto": Step(strip_to, character),
    "s.ftime": Step(format_seconds, string),
    "s.unquote": Step(unquote),
    "s.unbracket": Step(unbracket),
    "s.count": Step(lambda text, mark: text.count(mark), character),
    "s.before": Step(lambda text, mark: text.partition(mark)[0], character),
    "s.after": Step(after, character),
    "s.rbefore": Step(before_last, character),
    "s.rafter": Step(after_last, character),
    "s.fmtlines": Step(fold, integer, integer, optional=1),
    "s.fmtlinet": Step(lambda text, width, indent=0: fold(text, width, indent, "\t"), integer, integer, optional=1),
    "s.charat": Step(char_at, integer),
    "s.byteat": Step(byte_at, integer),
    "line.count": Step(lambda text: str(len(lines(text))) if text else None),
    "line.at": Step(lambda text, index: line_at(text, index) if text else None, integer),
    "line.sw": Step(lambda text, start: line_starting(text, start) if text else None, string),
}
