"""Statistics over results: comparisons, correlations, power laws, embeddings, rating metrics."""
