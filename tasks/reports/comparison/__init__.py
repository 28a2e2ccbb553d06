"""The comparison report: groups of comparable experiments, sections and charts."""
