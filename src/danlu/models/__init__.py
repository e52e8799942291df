"""Where a base model comes from, how it is checked, and how it is loaded."""
