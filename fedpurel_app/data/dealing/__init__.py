"""The long tail, and how it is dealt out to sites."""
