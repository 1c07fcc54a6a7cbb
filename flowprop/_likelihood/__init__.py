"""Everything that knows log p."""
