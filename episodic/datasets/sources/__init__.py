"""Collections of pictures that several data sets are made of."""
