"""What-if simulations: place streams of creates and deletes with Billet's own core, and with other rules."""
