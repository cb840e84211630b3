"""The ledger: what was used, and what it cost."""
