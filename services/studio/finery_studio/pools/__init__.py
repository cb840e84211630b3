"""Pools, flavours, quotas: where tasks run and whose turn it is."""
