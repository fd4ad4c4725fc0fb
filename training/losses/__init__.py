"""What is minimised: one family of losses a file, pure functions and the terms made of them."""
