"""rtpengine: bencode, in which its questions and answers are written: texts, integers, lists and dictionaries."""

from __future__ import annotations

from typing import Final

Bencoded = int | str | list["Bencoded"] | dict[str, "Bencoded"]

_DEEPEST: Final = 64  # of what is in what: an answer is no proof of good will


def encode(value: Bencoded) -> bytes:
    """Return ``value`` in bencode; the keys of a dictionary keep their order, as relays do not mind."""
    out: list[str] = []
    _write(value, out)
    return "".join(out).encode("latin-1")


def _write(value: Bencoded, out: list[str]) -> None:
    if isinstance(value, str):
        out += (str(len(value)), ":", value)
    elif isinstance(value, int):
        out.append(f"i{value}e")
    elif isinstance(value, list):
        out.append("l")
        for one in value:
            _write(one, out)
        out.append("e")
    else:
        out.append("d")
        for key, one in value.items():
            _write(key, out)
            _write(one, out)
        out.append("e")


def decode(data: bytes) -> Bencoded:
    """Return what ``data`` holds; what stands behind it is left alone. Raise ValueError."""
    value, _ = _read(data.decode("latin-1"), 0, 0)
    return value


def _read(text: str, at: int, depth: int) -> tuple[Bencoded, int]:
    """Return the value at ``at`` and where it ends."""
    kind = text[at : at + 1]
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if kind == "i":
        end = _find(text, "e", at)
        return _integer(text[at + 1 : end]), end + 1
    if kind in ("l", "d"):
        items: list[Bencoded] = []
        at += 1
        while text[at : at + 1] != "e":
            value, at = _read(text, at, depth + 1)
            items.append(value)
        return (items if kind == "l" else _dictionary(items)), at + 1
    colon = _find(text, ":", at)
    length = text[at:colon]
    end = colon + 1 + (int(length) if length.isdecimal() and length.isascii() and len(length) < 10 else -1)
    if not colon < end <= len(text):
        raise ValueError(f"no text of this length at {at}")
    return text[colon + 1 : end], end


def _find(text: str, mark: str, at: int) -> int:
    end = text.find(mark, at, at + 32)
    if end < 0:
        raise ValueError(f"nothing that makes sense at {at}")
    return end


def _integer(digits: str) -> int:
    if not digits.removeprefix("-").isdecimal() or not digits.isascii():
        raise ValueError(f"{digits!r} is no integer")
    return int(digits)


def _dictionary(items: list[Bencoded]) -> dict[str, Bencoded]:
    keys, values = items[::2], items[1::2]
    if len(keys) != len(values):
        raise ValueError("a key without a value")
    out: dict[str, Bencoded] = {}
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, str):
            raise ValueError("a key that is no text")
        out[key] = value
    return out
