"""The process that runs one model: `python -m gatehook_plugins.vendor_gguf.engine`."""
