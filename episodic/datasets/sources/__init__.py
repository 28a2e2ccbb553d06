"""Collections of pictures that several datasets are made of."""
