"""What a run is, and where its truth is kept: the run directory."""
