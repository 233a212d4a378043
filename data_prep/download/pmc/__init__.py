"""PMC's article datasets in the cloud: found by their inventory, fetched into large parts."""
