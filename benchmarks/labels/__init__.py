"""Labels that a user saves by labelling what `suggest` proposes, instead of random examples."""
