"""Who may ask what of a gateway, and how much: keys, roles, quotas, and an entry for each request."""
