"""Posteriors: flows of parameters given observations, within the support of a prior."""
