"""Start, follow and stop runs: here, in one process, or elsewhere."""
