"""The method benchmark: all methods on the same test episodes, trained with a stated budget."""
