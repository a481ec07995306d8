"""The model, the data formats and the reports of the polyphonic music experiment."""
