"""Shapes, inputs, clock, gate, images, goldens, records and the asv environment: the ruler."""
