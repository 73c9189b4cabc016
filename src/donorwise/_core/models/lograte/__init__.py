"""Log rates of counts per donor or sample."""
