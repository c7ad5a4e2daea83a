"""What the small verbs say: one file each, or a few that belong together."""
