"""Polyphonic music: the network and its averages, what needs no network, what can be heard and seen, tables and figures."""
