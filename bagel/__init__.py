"""BAGEL for inference: text-to-image, image editing and image understanding, over any implementation of the MoT ops."""
