"""`fit`, and what only training needs."""
