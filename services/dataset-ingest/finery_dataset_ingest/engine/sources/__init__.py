"""Where data is fetched from: places of bytes, which ``finery_ml.sources`` knows, and of rows: databases and logs."""
