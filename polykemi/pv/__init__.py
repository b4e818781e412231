"""Pseudo-variables: parsed once to a getter and a setter, cached, bounded."""
