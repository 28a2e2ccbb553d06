"""Models, one module each: pure functions of parameters and examples."""
