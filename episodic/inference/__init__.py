"""Trained models in use: adapt and predict, scikit-learn, export, the demo page."""
