"""What a point of a path is, and what a network's output says of it."""
