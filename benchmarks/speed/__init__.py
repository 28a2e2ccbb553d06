"""Speed benchmarks: every figure next to a peer measured in the same run."""
