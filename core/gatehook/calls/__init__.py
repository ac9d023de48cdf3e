"""One call's way: through the concerns, to a deployment or the next, and back to the client."""
