"""Datasets: bytes in, canonical form out."""
