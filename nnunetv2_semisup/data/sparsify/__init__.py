"""`nnUNetv2_semisup sparsify`: sparse labels from dense ones, for studies.

`files` turns a folder of labels into another, `modes` a case's labels into sparse ones: whole slices (`slice_choice`),
strokes (`scribbles`), balls (`points`) or cores (`erosion`), the last three by how deep a voxel lies (`depth`).
"""
