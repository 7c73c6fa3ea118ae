"""Tables of real preferences: text, tables, fits, removal, summary."""
