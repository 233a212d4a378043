"""Shard sets to and from the formats of other trainers: Megatron's indexed dataset and MosaicML's MDS."""
