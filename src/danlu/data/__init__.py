"""From rows of text to labelled tokens, with every row accounted for."""
