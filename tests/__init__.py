"""The tests; their folders say what they need: nothing, a simulator, a broker, real processes."""
