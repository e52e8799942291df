"""What the HTML pages share: the base template and its style, escaping, numbers, charts, differences of texts."""
