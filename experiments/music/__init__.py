"""The parts of the polyphonic music experiment."""
