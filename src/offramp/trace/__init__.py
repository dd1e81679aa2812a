"""See what every exit would have said: the data of a trace, and its pictures."""
