"""The explorer: one market on a page with sliders, computed again and exactly in the browser."""
