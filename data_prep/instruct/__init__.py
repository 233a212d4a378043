"""Instruction samples as conversations: rendered, masked, and packed into shards."""
