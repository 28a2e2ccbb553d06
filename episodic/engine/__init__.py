"""The meta-gradient engine: meta-learners, the inner loop and the meta-gradient."""
