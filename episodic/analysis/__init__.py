"""Statistics over results: paired comparisons, correlations, power laws, embedding spaces, rating metrics."""
