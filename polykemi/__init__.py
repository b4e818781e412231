"""polykemi: a SIP server whose routing logic is a script in Lua, JavaScript or Python, written against KSR."""

__version__ = "0.1.0"
