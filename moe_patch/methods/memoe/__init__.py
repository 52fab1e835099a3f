"""How a bypass is trained: knowledge frequency, division among experts, losses, and the loop."""
