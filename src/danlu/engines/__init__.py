"""Generation behind one small interface."""
