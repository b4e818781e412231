"""polykemi: a SIP server whose routing logic is a script in Lua, JavaScript or Python, written against KSR."""

from pathlib import Path

__version__ = "0.1.0"

# whether this is the compiled form (hatch_build.py): its modules and their sources stand side by side
compiled = any(Path(__file__).parent.glob("router.*.so"))
