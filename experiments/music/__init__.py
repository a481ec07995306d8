"""The parts of the polyphonic music experiment: the file reader, the network, the baselines, MIDI
output and the tables.
"""
