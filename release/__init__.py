"""What is published: the distributions (`python3 -m release`) and the documentation (`.documentation`)."""
