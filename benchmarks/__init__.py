"""What produces every figure in the README; ``python -m benchmarks`` runs it."""
