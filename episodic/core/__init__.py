"""The foundation of the library: episodes, objectives, configuration, random numbers, files."""
