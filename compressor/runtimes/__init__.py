"""Runtimes: load an artifact, predict, say which kernels run. One file each."""
