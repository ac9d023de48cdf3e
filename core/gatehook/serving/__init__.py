"""The way in: processes, sockets, connections, and requests as they arrive."""
