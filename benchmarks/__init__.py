"""Benchmarks of speed and of algorithms. The pipeline does not import them."""
