"""What a person reads at the end of a run, built from the run folder alone."""
