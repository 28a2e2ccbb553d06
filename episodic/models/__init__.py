"""Base learners, one module each: plain functions of (parameters, x) over `episodic.ops`."""
