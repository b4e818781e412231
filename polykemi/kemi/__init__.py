"""KEMI: the registry of exported functions, the context that a route block sees, values and their rules."""
