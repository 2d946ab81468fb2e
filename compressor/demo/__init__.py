"""What ``compress demo`` runs on: a ResNet and a slice of Fashion-MNIST, from ``benchmarks/train_demo_model.py``."""
