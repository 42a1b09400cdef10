"""What a config is: its schema, the checks, references and secrets in it, and the building of objects from it."""
