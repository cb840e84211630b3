"""The billing meter: turns facts into ledger lines."""
