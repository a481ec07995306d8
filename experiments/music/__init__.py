"""Polyphonic music: reading the files, the network and its averages, what needs no network, what can be heard and seen, tables."""
