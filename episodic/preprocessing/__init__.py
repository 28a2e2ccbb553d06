"""Preprocessing: how images, sentences and numbers become inputs of a model."""
