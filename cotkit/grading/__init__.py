"""Where an answer stands in a text, and whether it equals the gold answer."""
