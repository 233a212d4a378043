"""What a run is gone on from: saved whole, found again, loaded on any layout, copied away."""
