# ruff: noqa: N815  (Kamailio's names of parameters)
"""rtpengine: the quality of a call (mean opinion scores) from the answers to delete and query, into variables of the script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from polykemi.kemi.context import RouteContext
from polykemi.modules.rtpengine_bencode import Bencoded

_STREAMS: Final = 4  # of one label


@dataclass(frozen=True, slots=True)
class QualityParams:
    """The variables that the figures are written to, Kamailio's names; A and B: of the side with that label alone."""

    mos_min_pv: str = ""
    mos_min_at_pv: str = ""
    mos_min_packetloss_pv: str = ""
    mos_min_jitter_pv: str = ""
    mos_min_roundtrip_pv: str = ""
    mos_min_roundtrip_leg_pv: str = ""
    mos_max_pv: str = ""
    mos_max_at_pv: str = ""
    mos_max_packetloss_pv: str = ""
    mos_max_jitter_pv: str = ""
    mos_max_roundtrip_pv: str = ""
    mos_max_roundtrip_leg_pv: str = ""
    mos_average_pv: str = ""
    mos_average_packetloss_pv: str = ""
    mos_average_jitter_pv: str = ""
    mos_average_roundtrip_pv: str = ""
    mos_average_roundtrip_leg_pv: str = ""
    mos_average_samples_pv: str = ""
    mos_A_label_pv: str = ""
    mos_min_A_pv: str = ""
    mos_min_at_A_pv: str = ""
    mos_min_packetloss_A_pv: str = ""
    mos_min_jitter_A_pv: str = ""
    mos_min_roundtrip_A_pv: str = ""
    mos_min_roundtrip_leg_A_pv: str = ""
    mos_max_A_pv: str = ""
    mos_max_at_A_pv: str = ""
    mos_max_packetloss_A_pv: str = ""
    mos_max_jitter_A_pv: str = ""
    mos_max_roundtrip_A_pv: str = ""
    mos_max_roundtrip_leg_A_pv: str = ""
    mos_average_A_pv: str = ""
    mos_average_packetloss_A_pv: str = ""
    mos_average_jitter_A_pv: str = ""
    mos_average_roundtrip_A_pv: str = ""
    mos_average_roundtrip_leg_A_pv: str = ""
    mos_average_samples_A_pv: str = ""
    mos_B_label_pv: str = ""
    mos_min_B_pv: str = ""
    mos_min_at_B_pv: str = ""
    mos_min_packetloss_B_pv: str = ""
    mos_min_jitter_B_pv: str = ""
    mos_min_roundtrip_B_pv: str = ""
    mos_min_roundtrip_leg_B_pv: str = ""
    mos_max_B_pv: str = ""
    mos_max_at_B_pv: str = ""
    mos_max_packetloss_B_pv: str = ""
    mos_max_jitter_B_pv: str = ""
    mos_max_roundtrip_B_pv: str = ""
    mos_max_roundtrip_leg_B_pv: str = ""
    mos_average_B_pv: str = ""
    mos_average_packetloss_B_pv: str = ""
    mos_average_jitter_B_pv: str = ""
    mos_average_roundtrip_B_pv: str = ""
    mos_average_roundtrip_leg_B_pv: str = ""
    mos_average_samples_B_pv: str = ""


# what a relay calls it -> what the parameter does
_FIGURES: Final = {
    "MOS": "",
    "reported at": "_at",
    "packet loss": "_packetloss",
    "jitter": "_jitter",
    "round-trip time": "_roundtrip",
    "round-trip time leg": "_roundtrip_leg",
    "samples": "_samples",
}
_SUMMED: Final = ("MOS", "packet loss", "jitter", "round-trip time", "round-trip time leg", "samples")
_KINDS: Final = {"highest MOS": "max", "lowest MOS": "min", "average MOS": "average"}

Figures = dict[str, int]
Put = Callable[[RouteContext, str, str], object]  # context, name of a variable, value


def write_quality(
    ctx: RouteContext, answer: dict[str, Bencoded], params: Any, put: Put, label: Callable[[str], str]
) -> None:
    """Write what ``answer`` says of the call into the variables; ``label`` expands the text of a label parameter."""
    for side in ("", "_A", "_B"):
        names = {
            (kind, figure): getattr(params, f"mos_{kind}{short}{side}_pv", "")
            for kind in _KINDS.values()
            for figure, short in _FIGURES.items()
        }
        given = getattr(params, f"mos{side}_label_pv", "")
        if not any(names.values()) and not given:
            continue
        wanted = _streams_of(answer, label(given)) if given else None
        if wanted is not None and not wanted:
            continue
        for kind, figures in _collect(answer, wanted).items():
            for figure, value in figures.items():
                if name := names[kind, figure]:
                    put(ctx, name, _shown(figure, value, _integer(answer, "created", 0)))


def _shown(figure: str, value: int, created: int) -> str:
    """Write a figure as Kamailio does: a MOS of 43 is 4.3, a time is minutes and seconds since the call began."""
    if figure == "MOS":
        return f"{_divided(value, 10)}.{abs(value) % 10}"[:7]
    if figure == "reported at":
        seconds = value - created
        return f"{_divided(seconds, 60)}:{abs(seconds) % 60:02}"[:7]
    return str(value)[:7]


def _divided(value: int, by: int) -> int:
    return -(-value // by) if value < 0 else value // by


def _streams_of(answer: dict[str, Bencoded], label: str) -> set[str]:
    """Return the SSRCs of the first stream of each media of those who carry ``label``, four at most."""
    found: list[str] = []
    tags = answer.get("tags")
    for tag in tags.values() if isinstance(tags, dict) else ():
        medias = tag.get("medias") if isinstance(tag, dict) and tag.get("label") == label else None
        for media in medias if isinstance(medias, list) else ():
            streams = media.get("streams") if isinstance(media, dict) else None
            first = streams[0] if isinstance(streams, list) and streams else None
            if isinstance(first, dict) and _integer(first, "SSRC", -1) != -1:
                found.append(str(first["SSRC"]))
    return set(found[:_STREAMS])


def _collect(answer: dict[str, Bencoded], wanted: set[str] | None) -> dict[str, Figures]:
    """Return the best, the worst and the average figures of the streams (all when ``wanted`` is None)."""
    best: Figures = {}
    worst: Figures = {}
    total = dict.fromkeys(_FIGURES, 0)
    number = 0
    streams = answer.get("SSRC")
    for ssrc, stream in streams.items() if isinstance(streams, dict) else ():
        if not isinstance(stream, dict) or (wanted is not None and ssrc not in wanted):
            continue
        average, high, low = (_figures(stream.get(kind)) for kind in ("average MOS", "highest MOS", "lowest MOS"))
        if average and average["MOS"] > 0:
            number += 1
            for figure in _SUMMED:
                total[figure] += average[figure]
        if high and high["MOS"] > best.get("MOS", -1):
            best = high
        if low and 0 < low["MOS"] < worst.get("MOS", 100):
            worst = low
    out = {"max": best, "min": worst}
    if number:
        out["average"] = {figure: _divided(total[figure], number) for figure in _SUMMED}
    return {kind: figures for kind, figures in out.items() if figures}


def _figures(value: Bencoded | None) -> Figures | None:
    return {figure: _integer(value, figure, -1) for figure in _FIGURES} if isinstance(value, dict) else None


def _integer(of: dict[str, Bencoded], key: str, default: int) -> int:
    value = of.get(key)
    return value if isinstance(value, int) else default
