"""Sentences as numbers: hashed n-grams, subword tokens, or embeddings of a pretrained encoder."""
