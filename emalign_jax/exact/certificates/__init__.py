"""What the public functions give: certificates and best responses."""
