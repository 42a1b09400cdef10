"""What scripts written for other systems need to run here unchanged; the standard library and `runs.context` alone."""
