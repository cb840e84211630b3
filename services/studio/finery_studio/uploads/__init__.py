"""Uploads: bytes that come in pieces and survive whatever happens in between."""
