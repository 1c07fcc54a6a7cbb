"""Log-likelihoods: computed, estimated with errors, compared between classes, and trained."""
