"""Text to ids and back, and the one place where a conversation becomes ids."""
