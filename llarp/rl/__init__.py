"""Reinforcement learning: rollouts, PPO, warm start, checkpoints. Knows policies and environments by interface only."""
