"""Compress PyTorch models and prove what it saves."""
