"""Compression methods. One file each."""
