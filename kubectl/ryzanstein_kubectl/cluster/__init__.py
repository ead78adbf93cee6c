"""EFFECTS: every call to the API server, with the rights of whoever runs the command."""
