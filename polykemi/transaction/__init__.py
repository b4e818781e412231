"""Transactions: the four machines of RFC 3261 section 17 and RFC 6026, their timers and matching, and forking (section 16.7)."""
