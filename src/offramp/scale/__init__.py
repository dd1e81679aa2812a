"""Run the same work on many machines, with engines that exist."""
