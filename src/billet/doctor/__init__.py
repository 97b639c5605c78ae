"""`billet doctor`: what a host or a server needs around it, and what to do about what it lacks. Changes nothing."""
