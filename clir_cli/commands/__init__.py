"""The verbs by theme: their arguments, what they print, their exit codes."""
