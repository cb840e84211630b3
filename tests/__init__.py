"""Finery's proofs: quick ones first, real parts wherever a user has them."""
