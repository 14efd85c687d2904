"""Pretraining of the frozen vision model on pictures of training apartments, and the probe that judges it."""
