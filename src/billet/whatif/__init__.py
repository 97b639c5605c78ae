"""WHAT WOULD HAVE HAPPENED? Streams of creates and deletes, placed by Billet's own core and by other rules."""
