"""Speed benchmarks. Every result is compared with a peer measured in the same run."""
