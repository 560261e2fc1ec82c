"""A site: what it answers, keeps and refuses."""
