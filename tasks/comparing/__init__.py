"""The comparison report: from experiments to what may be compared, to sentences and pictures."""
