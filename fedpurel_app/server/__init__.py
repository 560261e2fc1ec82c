"""A run at the server."""
