"""What a corpus says about itself: figures, and the card that a team publishes with it."""
