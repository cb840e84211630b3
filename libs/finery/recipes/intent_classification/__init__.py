"""Sample data: support-desk intent classification (train and held-out sets)."""
