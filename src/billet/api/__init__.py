"""HOW the world reaches Billet: Flintlock's gRPC and its HTTP gateway, and Billet's own Fleet service."""
