"""What everything else builds on: episodes, objectives, configuration, random numbers, files, errors."""
