"""Command-line programs, each runnable as a file and as `spikeloop NAME`."""
