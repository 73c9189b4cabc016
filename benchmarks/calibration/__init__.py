"""Type I error, false discoveries and power of donorwise and its neighbours on data whose truth is known."""
