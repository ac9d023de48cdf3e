"""Settings: layers, typed tables, and faults named with their place."""
