"""Text <-> event: how a request is read, and how a URL and an answer are written. Pure, but for the clock."""
