"""The `gatehook` program."""
