"""Speed, measured in one run against what others do. Nothing here is imported by the pipeline."""
