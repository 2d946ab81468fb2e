"""What a user would pick instead; ``make`` runs in an environment of its own and is not imported here."""

PEERS = ("optimum dynamic", "ORT quantize_static", "NNCF", "Torch-Pruning")
"""Names of the peers' arms."""
