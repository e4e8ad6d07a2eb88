"""Memory of training: what is in use, where it went, what a batch size will need, and giving back what is cached."""
