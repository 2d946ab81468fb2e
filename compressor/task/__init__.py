"""Data and score: what a model is for, and how well it does it."""
