"""Training: the loop, and what makes it fast without changing what it finds."""
