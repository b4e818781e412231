"""What is done when a script is stuck in native code, where nothing inside of the process can stop it: the process ends.

Whoever keeps the server running (systemd, ``polykemi serve --supervise``, a container) starts it anew. Nothing is lost by
that: what is stored is committed before an answer leaves.
"""

from __future__ import annotations

import os
import sys
from typing import Final, NoReturn

from polykemi.errors import WEDGED

GRACE: Final = 2.0  # seconds at least that a stopped script has to come back

_exit = os._exit  # a script may not, see python_exits.py


def end_process(where: str, seconds: float) -> NoReturn:
    """End the process because the script at ``where`` has not come back for so many seconds; called on a watching thread."""
    text = (
        f"polykemi: {where} has been stuck in native code for {seconds:.0f} s; the process ends (exit code {WEDGED})\n"
    )
    os.write(2, text.encode("utf-8", "replace"))  # not through logging: its lock may be held
    _exit(WEDGED)


def leave() -> NoReturn:
    """End the process with success, without waiting for threads that are stuck."""
    sys.stdout.flush()
    sys.stderr.flush()
    _exit(0)
