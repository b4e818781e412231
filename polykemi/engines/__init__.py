"""Script engines: they bind exports, convert values, call, limit. No SIP knowledge here."""
