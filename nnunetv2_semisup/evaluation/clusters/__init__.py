"""`nnUNetv2_semisup clusters`: from a pre-trained model and images to maps of what it has learned.

`model` reads the model, `prediction` assigns an image's voxels, `purity` compares with labels, `page` draws what is
shown, `clusters` calls them in this order.
"""
