"""What the stage `evaluate` consists of: baselines, other figures of the same model, and the tables that it writes."""
