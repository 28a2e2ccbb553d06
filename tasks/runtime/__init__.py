"""What the stages share: the command-line frame, files, prepared data, processes, resuming."""
