"""``python -m polykemi``."""

from polykemi.cli import main

main()
