"""`make bench`: the same load, and the same script, on polykemi and on Kamailio. README.md says how to read the figures."""
