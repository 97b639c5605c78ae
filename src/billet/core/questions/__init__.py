"""Questions about decisions that were made: why, why not, what if. Answered by replaying them."""
