"""How pictures, sentences and numbers become inputs of a model, in training and in use alike."""
