"""What something will cost, and what it has cost so far."""
