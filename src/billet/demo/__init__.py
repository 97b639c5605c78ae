"""`billet demo`: a whole cluster on one machine, compared with hosts chosen by a static list."""
