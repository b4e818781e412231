"""Profiles: named groups of dialogs, counted as a whole or by value (Kamailio: dialog profiles). Part of dialog."""

from __future__ import annotations

import re
from typing import Final

from polykemi.modules.dialog_state import Dialog

_NAME: Final = re.compile(r"[A-Za-z0-9_\-]+")


def profile_names(parameter: str, text: str) -> list[str]:
    """Return the names in ``a; b; c``; what stands behind ``/`` says how they are shared and is left out. Raise ValueError."""
    names = [name.strip(" \t").partition("/")[0] for name in text.split(";") if name.strip(" \t")]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{parameter}: expected names of letters, digits, - and _, got {name!r}")
    return names


class Profiles:
    """How many dialogs are in each profile."""

    def __init__(self, with_value: list[str], without_value: list[str]) -> None:
        self._has_value = dict.fromkeys(without_value, False) | dict.fromkeys(with_value, True)
        self._counts: dict[tuple[str, str], int] = {}  # by profile and value
        self._totals = dict.fromkeys(self._has_value, 0)

    def has_value(self, profile: str) -> bool | None:
        """Tell whether dialogs are in ``profile`` with a value; None when there is no such profile."""
        return self._has_value.get(profile)

    def join(self, dialog: Dialog, profile: str, value: str) -> None:
        """Put ``dialog`` into a profile once more."""
        dialog.profiles.append((profile, value))
        self._counts[profile, value] = self._counts.get((profile, value), 0) + 1
        self._totals[profile] = self._totals.get(profile, 0) + 1

    def leave(self, dialog: Dialog, profile: str, value: str) -> bool:
        """Take ``dialog`` out of a profile once; False when it was not in it."""
        if (profile, value) not in dialog.profiles:
            return False
        dialog.profiles.remove((profile, value))
        self._totals[profile] -= 1
        left = self._counts[profile, value] - 1
        if left:
            self._counts[profile, value] = left
        else:
            del self._counts[profile, value]
        return True

    def leave_all(self, dialog: Dialog) -> None:
        """Take ``dialog`` out of all its profiles."""
        for profile, value in list(dialog.profiles):
            self.leave(dialog, profile, value)

    def size(self, profile: str, value: str | None) -> int:
        """Return how often dialogs are in ``profile``, with this value when it is not None."""
        if value is not None and self._has_value.get(profile):
            return self._counts.get((profile, value), 0)
        return self._totals.get(profile, 0)
