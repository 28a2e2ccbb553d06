"""Stored examples and the samplers that draw episodes from them."""
