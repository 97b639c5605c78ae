"""The agent beside one flintlockd: it bids, carries out orders, and reports what the host runs."""
