"""Types of weights, patches on a model, and modes of memory."""
