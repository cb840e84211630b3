"""A deterministic simulator of the event-driven heart: the real pure domains, everything around them modelled."""
