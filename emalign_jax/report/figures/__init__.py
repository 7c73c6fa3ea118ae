"""One file a figure: functions that draw into axes, and what puts them together for a command."""
