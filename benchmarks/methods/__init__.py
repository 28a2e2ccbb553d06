"""The method benchmark: every algorithm trained and tested on the same episodes at a stated budget."""
