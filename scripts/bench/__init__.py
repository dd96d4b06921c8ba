"""What `spikeloop benchmark` runs, one file per table."""
