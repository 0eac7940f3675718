"""Which worker and partition a request goes to, and how many requests wait."""
