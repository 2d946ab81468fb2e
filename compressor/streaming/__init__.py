"""Quantizing checkpoints that do not fit in memory: tensor by tensor, from shards to shards."""
