"""The runtime: polls sources, detects changes, publishes them, and runs the handlers that consume them."""
