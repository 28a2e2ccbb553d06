"""The method benchmark: all algorithms on the same test episodes, with a documented budget."""
