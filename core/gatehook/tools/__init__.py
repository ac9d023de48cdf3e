"""What models may call: tools offered, calls judged, and those that the gateway runs itself."""
