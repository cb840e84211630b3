"""Packages: hours bought in advance."""
