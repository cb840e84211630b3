"""The distiller: distillation, announced and not offered yet."""
