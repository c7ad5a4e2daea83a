"""Execute a plan: serial here; a cluster's launchers stand beside it."""
