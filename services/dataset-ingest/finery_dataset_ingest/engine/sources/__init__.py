"""Sources: where data is fetched from, one module for each kind of place. All of it under limits."""
