"""Polyphonic music: `model` is the network and its four averages, `baselines` what needs no network, `midi` what can be heard and seen."""
