"""Flows, and flows made from flows."""
