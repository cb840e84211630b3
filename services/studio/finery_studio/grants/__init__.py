"""Grants: what Finery may do on a user's behalf."""
