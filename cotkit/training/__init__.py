"""LLaMA-Factory's configuration, budgets, and the check that what is trained is what is served."""
