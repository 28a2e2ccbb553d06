"""Transfer across domains: models trained on one dataset and tested on others."""
