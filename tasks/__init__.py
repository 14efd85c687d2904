"""Language Rearrangement: what the task is, without any simulator and without any network."""
