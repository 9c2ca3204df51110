"""From prompts to completions: engines, shards, resuming."""
