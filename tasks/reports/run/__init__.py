"""The sections of the run report, the tasks page and the model card."""
