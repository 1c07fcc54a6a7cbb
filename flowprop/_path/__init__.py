"""Paths and noise schedules: the point of a path at a time, and what a network's output means there."""
