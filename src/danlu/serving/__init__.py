"""Where people and programs meet a tuned model."""
