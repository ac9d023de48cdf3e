"""First-party plugins: one package each, none imports another."""
