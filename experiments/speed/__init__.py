"""The candidates, the timing and the reports of the speed experiments."""
