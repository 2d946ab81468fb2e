"""What comes in: a trained model, whatever file it is in.

Nothing is imported here, so that ``import compressor.model`` stays quick; import the submodules by name.
"""
