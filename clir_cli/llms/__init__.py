"""Large language models behind one interface: local ones, and any OpenAI-compatible server."""
