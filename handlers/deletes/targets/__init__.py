"""The systems that customers are deleted from: one file a kind."""
