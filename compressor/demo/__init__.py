"""The model and the slice of Fashion-MNIST that ``compress demo`` runs on; made by ``benchmarks/train_demo_model.py``."""
