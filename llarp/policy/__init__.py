"""Policies: the interface (`base`), and the LLaRP policy on a frozen language model and a frozen vision model."""
