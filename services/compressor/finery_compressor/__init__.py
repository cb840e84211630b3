"""The compressor: compression, announced and not offered yet."""
