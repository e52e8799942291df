"""Groups of commands, one per file; what they call is imported when it is used."""
