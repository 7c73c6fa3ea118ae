"""The public functions that apply the checks: certificates and best responses."""
