"""What a run tells of itself, and what ends or mends it when it goes wrong."""
