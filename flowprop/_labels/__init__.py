"""Classifiers and regressors built on flows: NoProp."""
