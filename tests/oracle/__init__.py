"""The oracle suite: the same scripts and packets through Debian's Kamailio and through polykemi, and what leaves both compared."""
