"""An exchange inside XLA: recorded intervals in, fills and money out, for thousands of configurations at once."""
